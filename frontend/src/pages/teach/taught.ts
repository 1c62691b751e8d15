/** What the server says of taught answers and of the runs that learned them. */
export type Taught = {
  id: string
  question: string
  content: string
  reasoning: string
  messages: number
  /** The line as it stands, where it is no row of ours. */
  text: string
  created: number | null
  chat: string
  chat_title: string
  turn: number | null
  voice: string
  model: string
}
export type RunReport = {
  held_out: boolean
  loss: [number, number] | null
  rows: number
  probe: { asked: number; before: number; after: number }
  verdict: string[]
}
export type TaughtRun = {
  id: string
  voice: string
  name: string
  state: string
  started: string
  old: string
  taught: number | null
  older: number
  report: RunReport | null
}
/** older: the data set that the corrected voice has learned. */
export type TaughtPage = { rows: Taught[]; total: number; runs: TaughtRun[]; older: string | null }
export type Plan = {
  training: { name: string }
  taught: number
  older: number
  probe: number
  old: string
}

/** The server takes no fewer: beside one or two rows everything else would be forgotten. */
const LEAST_OLDER = 20

/** How many older rows stand beside the taught ones, so that they are a share of all. */
export function olderRows(taught: number, share: number): number {
  return share ? Math.max(LEAST_OLDER, Math.round((taught * share) / (1 - share))) : 0
}
