/** What can be merged and exported, and how the merge and the export that go on stand. */
import { toasts } from '../../parts/toasts.svelte'
import { followWork, goesOn, type Work } from '../../server/background'
import { get, post } from '../../server/request'
import type { ModelHere } from '../models/model_list.svelte'

export type Target = {
  /** How the server calls it: `run:ID`, or the name of a loaded adapter. */
  voice: string
  name: string
  base: string
  state: string
  checkpoints: number[]
  suggestion: string
}
export type Plan = {
  problem?: string
  fix?: string
  base: string
  adapter: string
  folder: string
  num_bytes: number
  free_bytes: number
  has_room: boolean
  memory_bytes: number
  free_memory_bytes: number
  device: string
  has_memory: boolean
  prompting: string
  remarks: string[]
}
export type MergeWork = Work & {
  model: string
  verdict?: 'right' | 'rounded' | 'nothing'
  text?: string
  figures?: string
  folder?: string
}
export type ExportWork = Work & { model: string; file?: string; num_bytes?: number; command?: string }
type Answer = { targets: Target[]; merge?: MergeWork; export?: ExportWork }

class Merging {
  targets = $state<Target[] | null>(null)
  models = $state<ModelHere[]>([])
  merge = $state<MergeWork | null>(null)
  export = $state<ExportWork | null>(null)
  private ends: (() => void)[] = []

  isBusy = $derived(goesOn(this.merge) || goesOn(this.export))

  load = async (): Promise<void> => {
    try {
      const answer = await get<Answer>('merge/targets')
      this.targets = answer.targets
      if (answer.merge) this.merge = answer.merge
      if (answer.export) this.export = answer.export
      await this.listModels()
    } catch (problem) {
      toasts.fail(problem)
    }
    if (goesOn(this.merge)) this.followMerge()
    if (goesOn(this.export)) this.followExport()
  }

  leave = (): void => {
    for (const end of this.ends) end()
    this.ends = []
  }

  async beginMerge(voice: string, name: string): Promise<void> {
    try {
      this.merge = await post<MergeWork>('merge', { voice, name })
      this.followMerge()
    } catch (problem) {
      toasts.fail(problem)
    }
  }

  async beginExport(model: string, form: string, type: string): Promise<void> {
    try {
      this.export = await post<ExportWork>('merge/export', { model, form, type })
      this.followExport()
    } catch (problem) {
      toasts.fail(problem)
    }
  }

  stop = (kind: 'merge' | 'export'): Promise<unknown> => post(`merge/${kind}/stop`).catch(toasts.fail)

  private async listModels(): Promise<void> {
    this.models = (await get<{ here: ModelHere[] }>('models')).here
  }

  private followMerge(): void {
    const take = (work: MergeWork): void => void (this.merge = work)
    this.ends.push(followWork('merge/merge/events', take, () => void this.load()))
  }

  private followExport(): void {
    this.ends.push(followWork<ExportWork>('merge/export/events', (work) => void (this.export = work)))
  }
}

export const merging = new Merging()
