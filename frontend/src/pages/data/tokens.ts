/** Runs of tokens, of which a page draws both ends at once. */
import type { Segment } from './sets'

/** Return the first `head` tokens and the last `tail`, and how many lie between them. */
export function ends(
  segments: Segment[],
  head: number,
  tail: number
): { first: Segment[]; last: Segment[]; between: number } {
  const total = count(segments)
  if (total <= head + tail) return { first: segments, last: [], between: 0 }
  return { first: part(segments, 0, head), last: part(segments, total - tail, total), between: total - head - tail }
}

/** Count the tokens that are there. */
export function count(segments: Segment[]): number {
  return segments.reduce((sum, segment) => sum + segment.texts.length, 0)
}

function part(segments: Segment[], from: number, to: number): Segment[] {
  const found: Segment[] = []
  let at = 0
  for (const segment of segments) {
    const texts = segment.texts.slice(Math.max(0, from - at), Math.max(0, to - at))
    const isWhole = texts.length === segment.texts.length
    if (texts.length) found.push({ ...segment, texts, skipped: isWhole ? segment.skipped : 0 })
    at += segment.texts.length
  }
  return found
}
