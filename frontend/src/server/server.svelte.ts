/** What every page has to know of the server: which model is loaded, and who can answer. */
import { untrack } from 'svelte'
import { toasts } from '../parts/toasts.svelte'
import { get, onAway, Refused } from './request'

export type Voice = { id: string; name: string; base: string; fits: boolean }
export type ModelState = {
  /** unknown: the page has not asked yet. While loading, detail says what is read, of how much. */
  state: 'unknown' | 'none' | 'loading' | 'ready' | 'failed'
  model: string
  detail: string
  done: number
  total: number
  context: number
  lines: string[]
}

const WHILE_LOADING_MS = 400
const WHILE_AWAY_MS = 1000
const ELSE_MS = 5000

class Server {
  model = $state<ModelState>({
    state: 'unknown',
    model: '',
    detail: '',
    done: 0,
    total: 0,
    context: 0,
    lines: []
  })
  voices = $state<Voice[]>([])
  isReachable = $state(true)
  /** How often the server was away and is back. */
  returns = $state(0)
  private timer: ReturnType<typeof setTimeout> | undefined

  constructor() {
    onAway(() => {
      this.isReachable = false
      this.watchIn(WHILE_AWAY_MS)
    })
  }

  /** Ask how the server stands, again and again: often while something loads. */
  watch = async (): Promise<void> => {
    clearTimeout(this.timer)
    const before = this.model.state
    try {
      this.model = await get<ModelState>('models/loaded')
      if (!this.isReachable || this.model.state !== before || !this.voices.length) {
        await this.listVoices()
      }
      if (!this.isReachable) this.returns += 1
      this.isReachable = true
    } catch (problem) {
      if (problem instanceof Refused && problem.status === 401) return
      this.isReachable = false
    }
    const often = this.model.state === 'loading' ? WHILE_LOADING_MS : ELSE_MS
    this.watchIn(this.isReachable ? often : WHILE_AWAY_MS)
  }

  private watchIn(milliseconds: number): void {
    clearTimeout(this.timer)
    this.timer = setTimeout(this.watch, milliseconds)
  }

  listVoices = async (): Promise<void> => {
    try {
      this.voices = await get<Voice[]>('voices')
    } catch (problem) {
      toasts.fail(problem)
    }
  }

  nameOf = (voice: string): string => this.voices.find((one) => one.id === voice)?.name ?? voice
}

export const server = new Server()

/** Do something whenever the server is back after it was away; to be said while a component begins. */
export function onReturn(work: () => unknown): void {
  const seen = server.returns
  $effect(() => {
    if (server.returns !== seen) untrack(work)
  })
}
