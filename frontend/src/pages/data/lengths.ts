/** Arithmetic of a histogram of row lengths: pairs of [tokens, rows], by rising tokens. */
export type LengthCounts = [number, number][]
export type Bin = { from: number; to: number; rows: number }

const STEPS = [1, 2, 5]

/** Divide 0 .. `most` into at most `count` bins, whose width is a round number. */
export function binned(lengths: LengthCounts, most: number, count: number): Bin[] {
  const width = roundWidth(Math.max(1, most) / count)
  const bins: Bin[] = []
  for (let from = 0; from < most || !bins.length; from += width) bins.push({ from, to: from + width, rows: 0 })
  for (const [tokens, rows] of lengths) {
    const bin = bins[Math.min(bins.length - 1, Math.floor(tokens / width))]
    if (bin) bin.rows += rows
  }
  return bins
}

/** The smallest of 1, 2, 5, 10, 20, … that is no less than `least`. */
export function roundWidth(least: number): number {
  let power = 1
  for (;;) {
    for (const step of STEPS) if (step * power >= least) return step * power
    power *= 10
  }
}

/** Count the rows that are longer than so many tokens. */
export function rowsOver(lengths: LengthCounts, cutoff: number): number {
  return lengths.reduce((sum, [tokens, rows]) => sum + (tokens > cutoff ? rows : 0), 0)
}
