/** What the server says of runs. */
export type RunState =
  | 'running'
  | 'starting'
  | 'waiting'
  | 'ending'
  | 'finished'
  | 'interrupted'
  | 'stopped'
  | 'failed'
  | 'died'

export type RunCard = {
  id: string
  name: string
  title: string
  note: string
  state: RunState
  detail: string
  kind: string
  base: string
  step: number
  total: number | null
  loss: number | null
  eval_loss: number | null
  size_bytes: number
  started: string
  ended: string
  spark: number[]
  has_result: boolean
  /** The training in the queue that is this run's, while it waits or runs. */
  entry: string | null
  entry_state: string | null
}

export type Setting = { name: string; value: unknown; origin: string; is_given: boolean }
export type Proof = {
  step: number
  lost: number
  compared: number
  equal: number
  shown: { step: number; before: number; after: number }[]
}
export type RunDetails = RunCard & {
  folder: string
  settings: Setting[]
  /** The listed data set that it has learned, where there is one. */
  dataset: string | null
  data: Record<string, unknown>
  arithmetic: { device_description?: string | null; dtype?: string | null }
  results: Record<string, number>
  timings: Record<string, number>
  versions: Record<string, string>
  checkpoints: { step: number; bytes: number }[]
  has_report: boolean
  proofs: Proof[]
  command: string
  /** None: it was started in a terminal, and prints there. */
  log: string | null
}

export type Remark = { step: number; event: string }

const TAGS: Record<RunState, string> = {
  running: 'info',
  starting: 'info',
  waiting: '',
  ending: 'info',
  finished: 'good',
  interrupted: 'warn',
  stopped: 'warn',
  failed: 'bad',
  died: 'bad'
}

export const tagOf = (state: RunState): string => TAGS[state] ?? ''
export const goesOn = (state: RunState): boolean => ['running', 'starting', 'waiting', 'ending'].includes(state)
export const mayResume = (state: RunState): boolean => ['interrupted', 'stopped', 'failed', 'died'].includes(state)

/** The numbers of a loss that people compare: four digits behind the point. */
export const loss = (value: number | null): string => (value === null ? '—' : value.toFixed(4))
