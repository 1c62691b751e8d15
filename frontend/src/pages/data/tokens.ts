/** Runs of tokens, cut to what a page draws at once. */
import type { Segment } from './sets'

/** Return the first `count` tokens of some segments. */
export function beginning(segments: Segment[], count: number): Segment[] {
  const shown: Segment[] = []
  for (const segment of segments) {
    if (count <= 0) break
    const texts = segment.texts.length > count ? segment.texts.slice(0, count) : segment.texts
    shown.push({ ...segment, texts })
    count -= texts.length
  }
  return shown
}
