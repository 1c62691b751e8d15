/** What the server says of data sets, and how a page asks for it. */
import { get } from '../../server/request'

export type SetKind = 'example' | 'upload' | 'folder' | 'taught'
export type DataSet = {
  id: string
  name: string
  kind: SetKind
  size_bytes: number
  /** null: not counted yet. */
  rows: number | null
  excluded: number
  edited: number
  created: number
}
export type Severity = 'error' | 'warning' | 'note'
export type Finding = {
  row: number | null
  kind: string
  name: string
  severity: Severity
  what: string
  fix: string
}
export type Kind = { kind: string; name: string; severity: Severity; count: number; findings: Finding[] }
type Cost = { num_rows: number; num_examples: number; num_tokens: number; num_supervised: number }
export type Report = {
  state: 'done'
  num_rows: number
  train: Cost
  held_out: Cost
  lengths: { min: number; median: number; p90: number; p99: number; max: number }
  cutoff_len: number
  num_over_cutoff: number
  num_shortened: number
  num_cut_tokens: number
  num_left_out: number
  refuses: boolean
  refusal: string
  kinds: Kind[]
  rows_with_findings: number
  length_counts: [number, number][]
  datasets: string[]
  model: string
  template: string
}
export type Unreadable = { state: 'unreadable'; problem: string; fix: string; cutoff_len: number }
export type Check = Report | Unreadable

/** skipped: tokens behind the texts that are not sent, of what was cut out. */
export type Segment = {
  learned: boolean
  control: boolean
  cut: boolean
  texts: string[]
  skipped: number
}
export type Example = { tokens: number; learned: number; hidden: number; segments: Segment[] }
export type Json = null | boolean | number | string | Json[] | { [name: string]: Json }
export type JsonObject = { [name: string]: Json }
export type Row = {
  number: number
  place: string
  excluded: boolean
  edited: boolean
  /** null: the row cannot be read; `text` is then the line as it stands, where there is one. */
  row: Json
  text: string
  tokens: number
  cut: boolean
  left_out: boolean
  examples: Example[]
  findings: Finding[]
}
export type RowPage = { total: number; cutoff_len: number; rows: Row[]; problem: string }
export type Only = '' | 'findings' | 'cut' | 'changed'

export type Formatting = 'alpaca' | 'openai' | 'sharegpt'
type Names = Record<string, string>
export type Columns = {
  chosen: boolean
  fields: string[]
  rows: Names[]
  /** The names inside of fields that hold lists of objects. */
  inner: Record<string, string[]>
  defaults: Record<Formatting, { columns: Names; tags: Names }>
  formatting: Formatting | null
  columns: Names
  tags: Names
  origin: string
  problem: string
}

type Waiting = { state: 'running' }
const isWaiting = (answer: object): answer is Waiting => 'state' in answer && answer.state === 'running'

/** Ask until there is an answer: a request that waits long would be cut by a proxy. */
async function untilDone<T extends object>(path: string, isWanted: () => boolean): Promise<T | null> {
  while (isWanted()) {
    const answer = await get<T | Waiting>(path)
    if (!isWaiting(answer)) return answer
  }
  return null
}

/** Return the doctor's report; null where nobody waits for it any more. */
export function check(id: string, cutoff: number | null, isWanted: () => boolean): Promise<Check | null> {
  return untilDone(`data/sets/${id}/check${cutoff ? `?cutoff_len=${cutoff}` : ''}`, isWanted)
}

export function rows(
  id: string,
  asked: { at: number; count: number; only: Only; cutoff: number | null },
  isWanted: () => boolean
): Promise<RowPage | null> {
  const words = new URLSearchParams({ at: String(asked.at), count: String(asked.count) })
  if (asked.only) words.set('only', asked.only)
  if (asked.cutoff) words.set('cutoff_len', String(asked.cutoff))
  return untilDone(`data/sets/${id}/rows?${words}`, isWanted)
}
