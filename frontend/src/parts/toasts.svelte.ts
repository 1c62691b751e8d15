/** Short messages that come and go; errors stay until they are closed. */
import { Refused } from '../server/request'

export type Toast = { id: number; text: string; kind: 'good' | 'bad' }
const SHOWN_MS = 3500

class Toasts {
  shown = $state<Toast[]>([])
  private last = 0

  say = (text: string): void => {
    const id = this.add(text, 'good')
    setTimeout(() => this.close(id), SHOWN_MS)
  }

  /**
   * Show what went wrong, in the server's words; what is no refusal is a fault of the page.
   *
   * A function of its own, as it is handed to promises: work().catch(toasts.fail).
   */
  fail = (problem: unknown): void => {
    if (!(problem instanceof Refused)) console.error(problem)
    this.add(problem instanceof Error ? problem.message : String(problem), 'bad')
  }

  close = (id: number): void => {
    this.shown = this.shown.filter((toast) => toast.id !== id)
  }

  private add(text: string, kind: Toast['kind']): number {
    // What is said again is there once, as the newest.
    const others = this.shown.filter((toast) => toast.text !== text)
    this.shown = [...others.slice(-3), { id: ++this.last, text, kind }]
    return this.last
  }
}

export const toasts = new Toasts()
