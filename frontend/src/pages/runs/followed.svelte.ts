/** One run as it goes on: its card, its curves, what it prints. Nothing is lost by a reload. */
import { toasts } from '../../parts/toasts.svelte'
import { follow } from '../../server/follow'
import { get, Refused } from '../../server/request'
import { grow, NO_CURVES, type CurveData, type Points } from './curves'
import type { Remark, RunCard, RunDetails } from './run'

type Curve = { count: number; series: CurveData; remarks: Remark[] }
type RunEvent =
  | { kind: 'card'; card: RunCard }
  | ({ kind: 'points' } & Points)
  | { kind: 'reload' }
  | { kind: 'log'; text: string; anew: boolean }

// A curve that has grown longer than this is loaded again, thinned out.
const MOST_POINTS = 5000
const MOST_LOG_SIGNS = 60_000

export class Followed {
  details = $state<RunDetails | null>(null)
  card = $state<RunCard | null>(null)
  /** Not deeply reactive: thousands of numbers. */
  curves = $state.raw<CurveData>(NO_CURVES)
  remarks = $state<Remark[]>([])
  log = $state('')
  isGone = $state(false)
  private close = (): void => {}
  private isClosed = false

  constructor(readonly id: string) {
    void this.begin()
  }

  end(): void {
    this.isClosed = true
    this.close()
  }

  /** Load everything, and follow from there. */
  begin = async (): Promise<void> => {
    this.close()
    try {
      await this.load()
      const count = await this.loadCurve()
      if (!this.isClosed) this.watch(count)
    } catch (problem) {
      this.isGone = this.details === null && problem instanceof Refused && problem.status !== 0
      if (!this.isGone) toasts.fail(problem)
    }
  }

  load = async (): Promise<void> => {
    const details = await get<RunDetails>(`runs/${this.id}`)
    this.details = details
    this.card = details
    this.log = details.log ?? ''
  }

  private async loadCurve(): Promise<number> {
    const curve = await get<Curve>(`runs/${this.id}/curve`)
    this.curves = { ...NO_CURVES, ...curve.series }
    this.remarks = curve.remarks
    return curve.count
  }

  private watch(count: number): void {
    this.close = follow<RunEvent>(`runs/${this.id}/events?seen=${count}`, this.take, () => {
      if (!this.isClosed) void this.load().catch(() => {})
    })
  }

  private take = (event: RunEvent): void => {
    if (event.kind === 'card') {
      const before = this.card?.state
      this.card = event.card
      if (before !== event.card.state) void this.load().catch(() => {})
    } else if (event.kind === 'log') {
      this.log = (event.anew ? event.text : this.log + event.text).slice(-MOST_LOG_SIGNS)
    } else if (event.kind === 'reload') {
      void this.loadCurve().catch(toasts.fail)
    } else {
      const curves = { ...this.curves }
      for (const name of Object.keys(curves) as (keyof CurveData)[]) {
        const { x, y, mean_x, mean_y } = curves[name]
        curves[name] = { x: [...x], y: [...y], ...(mean_x && mean_y ? { mean_x: [...mean_x], mean_y: [...mean_y] } : {}) }
      }
      const most = grow(curves, event)
      this.curves = curves
      if (most > MOST_POINTS) void this.loadCurve().catch(() => {})
    }
  }
}
