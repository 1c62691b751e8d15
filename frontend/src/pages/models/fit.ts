/** What a published model can do on this machine, in words: before it is downloaded. */
export type NeedName = 'chat_bf16' | 'chat_int8' | 'chat_int4' | 'lora' | 'full'
export type Needs = {
  memory_bytes: Partial<Record<NeedName, number>> | null
  fits: Partial<Record<NeedName, boolean>> | null
}
export type Fit = {
  kind: 'good' | 'warn' | 'bad'
  /** The way in which it fits; null: in none. */
  way: NeedName | null
  /** Bytes of that way, or the least that any way would take. */
  bytes: number
}

/** The first way that fits is the best one; the later ones cost something. */
function best(needs: Needs, ways: NeedName[]): Fit {
  const sizes = needs.memory_bytes ?? {}
  const way = ways.find((name) => needs.fits?.[name])
  if (way) return { kind: way === ways[0] ? 'good' : 'warn', way, bytes: sizes[way] ?? 0 }
  const known = ways.map((name) => sizes[name]).filter((size) => size !== undefined)
  return { kind: 'bad', way: null, bytes: known.length ? Math.min(...known) : 0 }
}

export const answering = (needs: Needs): Fit => best(needs, ['chat_bf16', 'chat_int8', 'chat_int4'])

/** LoRA is the usual way; that all weights can be trained as well is more than one needs. */
export function fineTuning(needs: Needs): Fit {
  if (needs.fits?.full) return { kind: 'good', way: 'full', bytes: needs.memory_bytes?.full ?? 0 }
  return best(needs, ['lora'])
}
