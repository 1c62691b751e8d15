/** The arithmetic of curves: smoothing, growing, laying several beside each other. No drawing. */
export type Series = { x: number[]; y: number[]; mean_x?: number[]; mean_y?: number[] }
export type SeriesName =
  | 'loss'
  | 'eval_loss'
  | 'learning_rate'
  | 'grad_norm'
  | 'tokens_per_s'
  | 'memory_bytes'
  | 'seconds'
export type CurveData = Record<SeriesName, Series>
export type Points = {
  steps: { step: number[] } & Partial<Record<SeriesName, (number | null)[]>>
  held_out: { step: number[]; eval_loss: (number | null)[] }
}

export const NO_CURVES: CurveData = {
  loss: { x: [], y: [] },
  eval_loss: { x: [], y: [] },
  learning_rate: { x: [], y: [] },
  grad_norm: { x: [], y: [] },
  tokens_per_s: { x: [], y: [] },
  memory_bytes: { x: [], y: [] },
  seconds: { x: [], y: [] }
}

/**
 * Smooth values by an exponential mean that looks both ways, and so does not lag behind the curve.
 *
 * weight: from 0, nothing, to below 1. Point i becomes sum w^|i-j| y_j / sum w^|i-j|, as in the
 * curves that danlu draws into a run's folder (runs/curve.py).
 */
export function smoothed(values: readonly number[], weight: number): number[] {
  const ahead = decayed(values, weight)
  const back = decayed([...values].reverse(), weight).reverse()
  const parts = decayed(
    values.map(() => 1),
    weight
  )
  const count = values.length
  return values.map((value, at) => (ahead[at]! + back[at]! - value) / (parts[at]! + parts[count - 1 - at]! - 1))
}

function decayed(values: readonly number[], weight: number): number[] {
  let total = 0
  return values.map((value) => (total = weight * total + value))
}

/** The line to smooth: the means of the buckets where the server has thinned a series out. */
export function meanLine(series: Series): { x: number[]; y: number[] } {
  return series.mean_x && series.mean_y ? { x: series.mean_x, y: series.mean_y } : series
}

/** Add new points to curves; values that are no numbers leave a gap. Returns how many there are. */
export function grow(curves: CurveData, points: Points): number {
  let most = 0
  const add = (name: SeriesName, steps: number[], values: (number | null)[] | undefined) => {
    const series = curves[name]
    values?.forEach((value, at) => {
      const step = steps[at]!
      if (value === null) return
      series.x.push(step)
      series.y.push(value)
      series.mean_x?.push(step)
      series.mean_y?.push(value)
    })
    most = Math.max(most, series.x.length)
  }
  for (const name of Object.keys(points.steps)) {
    if (name in curves) add(name as SeriesName, points.steps.step, points.steps[name as SeriesName])
  }
  add('eval_loss', points.held_out.step, points.held_out.eval_loss)
  return most
}

/** Keep what lies between two steps. */
export function cut(series: Series, from: number, to: number): Series {
  const within = (x: number[], y: number[]) => {
    const kept = x.map((_step, at) => at).filter((at) => x[at]! >= from && x[at]! <= to)
    return [kept.map((at) => x[at]!), kept.map((at) => y[at]!)] as const
  }
  const [x, y] = within(series.x, series.y)
  if (!series.mean_x || !series.mean_y) return { x, y }
  const [mean_x, mean_y] = within(series.mean_x, series.mean_y)
  return { x, y, mean_x, mean_y }
}

/** Settings in which runs differ: a name, and each run's value as text. */
export function differences(
  settings: readonly { name: string; value: unknown }[][],
  hidden: ReadonlySet<string> = new Set()
): { name: string; values: string[] }[] {
  const tables = settings.map((list) => new Map(list.map((one) => [one.name, one.value])))
  const names = [...new Set(settings.flat().map((one) => one.name))]
  return names
    .filter((name) => !hidden.has(name))
    .map((name) => ({ name, values: tables.map((table) => (table.has(name) ? shown(table.get(name)) : '—')) }))
    .filter((row) => new Set(row.values).size > 1)
}

export function shown(value: unknown): string {
  return typeof value === 'string' ? value || '—' : value === null || value === undefined ? '—' : JSON.stringify(value)
}

/** Seconds until the end, from the last steps' time; null where it cannot be known. */
export function secondsLeft(seconds: readonly number[], step: number, total: number | null): number | null {
  const last = seconds.slice(-20)
  if (!total || !last.length || step >= total) return null
  return (last.reduce((sum, one) => sum + one, 0) / last.length) * (total - step)
}
