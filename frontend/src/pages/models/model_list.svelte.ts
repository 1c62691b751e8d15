/** The models that are here and those to pull, as the server lists them. */
import { toasts } from '../../parts/toasts.svelte'
import { followWork, goesOn, type Work } from '../../server/background'
import { get, post, remove } from '../../server/request'
import { server } from '../../server/server.svelte'
import type { Needs } from './fit'

export type ModelHere = {
  id: string
  name: string
  kind: 'starter' | 'pulled' | 'merged' | 'run'
  folder: string
  num_bytes: number
  is_default: boolean
  is_loaded: boolean
  chat_command: string
  serve_command: string
  vllm_command: string
}
export type Pull = Work & { site?: string; address?: string }
export type Offer = Needs & {
  name: string
  file_bytes: number
  license: string
  folder: string | null
  partial_bytes: number
  pull: Pull | null
}
export type Source = { source: string; name: string; address: string }
type Listing = {
  device: string
  budget_bytes: number
  folder: string
  here: ModelHere[]
  catalogue: Offer[]
  sources: Source[]
}

class ModelList {
  listing = $state<Listing | null>(null)
  pulls = $state<Record<string, Pull>>({})
  private followed = new Map<string, () => void>()

  load = async (): Promise<void> => {
    try {
      this.listing = await get<Listing>('models')
    } catch (problem) {
      toasts.fail(problem)
      return
    }
    for (const offer of this.listing.catalogue) {
      if (!offer.pull) continue
      this.pulls[offer.name] = offer.pull
      if (goesOn(offer.pull)) this.follow(offer.name)
    }
  }

  /** Let go of all connections: the page is left. */
  leave = (): void => {
    for (const end of this.followed.values()) end()
    this.followed.clear()
  }

  loadModel = (id: string): Promise<void> => this.change(() => post('models/load', { name: id }))

  eject = (): Promise<void> => this.change(() => post('models/eject'))

  use = (id: string): Promise<void> => this.change(() => post('models/use', { name: id }))

  async delete(name: string): Promise<number> {
    const answer = await remove<{ freed_bytes: number }>(`models/${encodeURIComponent(name)}`)
    delete this.pulls[name]
    await this.load()
    return answer.freed_bytes
  }

  async pull(name: string, source: string): Promise<void> {
    try {
      this.pulls[name] = await post<Pull>('models/pull', { name, source })
      this.follow(name)
    } catch (problem) {
      toasts.fail(problem)
    }
  }

  async pause(name: string): Promise<void> {
    try {
      await post(`models/pull/${encodeURIComponent(name)}/pause`)
    } catch (problem) {
      toasts.fail(problem)
    }
  }

  private follow(name: string): void {
    if (this.followed.has(name)) return
    const end = followWork<Pull>(
      `models/pull/${encodeURIComponent(name)}/events`,
      (work) => (this.pulls[name] = work),
      () => {
        this.followed.delete(name)
        void this.load()
      }
    )
    this.followed.set(name, end)
  }

  private async change(act: () => Promise<unknown>): Promise<void> {
    try {
      await act()
      await server.watch()
    } catch (problem) {
      toasts.fail(problem)
    }
    await this.load()
  }
}

export const modelList = new ModelList()
