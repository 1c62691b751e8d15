/** How curves are looked at; remembered in this browser. */
import type { SeriesName } from './curves'

export const EXTRA: SeriesName[] = ['learning_rate', 'grad_norm', 'tokens_per_s', 'memory_bytes']
export const WINDOWS = [0, 50, 200, 1000, 5000]
const KEPT = 'danlu.curves'

class ChartChoice {
  smoothing = $state(0.8)
  log = $state(false)
  /** The last so many steps; 0: all. */
  window = $state(0)
  extra = $state<SeriesName[]>([])

  constructor() {
    try {
      const kept = JSON.parse(localStorage.getItem(KEPT) ?? '{}')
      if (kept.smoothing >= 0 && kept.smoothing < 1) this.smoothing = kept.smoothing
      this.log = kept.log === true
      if (WINDOWS.includes(kept.window)) this.window = kept.window
      this.extra = EXTRA.filter((name) => Array.isArray(kept.extra) && kept.extra.includes(name))
    } catch {
      // What another version has kept is not understood: begin anew.
    }
  }

  keep(): void {
    const { smoothing, log, window, extra } = this
    localStorage.setItem(KEPT, JSON.stringify({ smoothing, log, window, extra }))
  }

  toggle(name: SeriesName): void {
    this.extra = this.extra.includes(name) ? this.extra.filter((one) => one !== name) : [...this.extra, name]
    this.keep()
  }
}

export const choice = new ChartChoice()
