/** The training that is being put together: what was chosen, and what the planner says to it. */
import { toasts } from '../../parts/toasts.svelte'
import { get, post } from '../../server/request'

export type Value = string | number | boolean | null
export type Option = {
  name: string
  help: string
  kind: 'switch' | 'choice' | 'whole' | 'number' | 'text'
  choices: string[]
  default: Value
  takes_null: boolean
  least: number | null
  greatest: number | null
  rule: string
}
export type Form = {
  groups: { id: string; options: Option[] }[]
  presets: Record<string, Record<string, string>>
  models: { name: string; is_here: boolean; is_loaded: boolean }[]
  sets: { id: string; name: string; rows: number | null }[]
}
export type Plan = {
  name_problem: string
  command: string
  yaml: string
  data: {
    rows: number
    held_out_rows: number
    tokens: number
    learned_tokens: number
    cutoff_len: number
    over_cutoff: number
    left_out: number
    is_estimated: boolean
  }
  steps: { total: number; rows_per_step: number; only_warms_up: boolean }
  disk: { checkpoints: number; bytes: number | null; free_bytes: number; problem: string; report: boolean; folder: string }
  fits: boolean
  problem: string
  fix: string
  change: Record<string, string | null>
  summary?: string
  lines?: string[]
  memory?: { name: string; bytes: number; note: string }[]
  needed_bytes: number
  budget_bytes: number
  steps_s?: number
  whole_s?: number
  device: string
  num_trained?: number
  loaded_model: string
  loaded_bytes: number
}
type Refusal = { refusal?: string; is_overtaken?: boolean }
export type Choice = {
  name: string
  model: string
  dataset: string
  eval_dataset: string
  adapter: string
  preset: string
  values: Record<string, Value>
}

const KEPT = 'danlu.training'
/** The built-in model, and the preset that suits it: it is tiny. */
export const STARTER = 'starter'
const WAIT_MS = 250

class Training {
  form = $state<Form | null>(null)
  choice = $state<Choice>({
    name: '',
    model: 'starter',
    dataset: '',
    eval_dataset: '',
    adapter: '',
    preset: '',
    values: {}
  })
  plan = $state<Plan | null>(null)
  /** Why there is no plan: the settings or the data are refused. */
  refusal = $state('')
  isPlanning = $state(false)
  private timer: ReturnType<typeof setTimeout> | undefined
  private asked = 0
  private proposed = ''

  options = $derived(new Map((this.form?.groups ?? []).flatMap((group) => group.options).map((one) => [one.name, one])))
  model = $derived(this.form?.models.find((one) => one.name === this.choice.model))

  open = async (words: Record<string, string>): Promise<void> => {
    try {
      this.form = await get<Form>('training/form')
    } catch (problem) {
      toasts.fail(problem)
      return
    }
    let kept = this.kept()
    // Other data are another training: what was changed for the last one is not kept for it.
    if (words.dataset && words.dataset !== kept.dataset) kept = { model: words.model ?? kept.model }
    const { form } = this
    const loaded = form.models.find((one) => one.is_loaded)?.name
    const listed = (name: string | undefined) => form.models.find((one) => one.name === name)?.name
    const knows = (id: string | undefined) => (form.sets.some((one) => one.id === id) ? id : undefined)
    this.choice = {
      ...this.choice,
      ...kept,
      model: listed(words.model) ?? listed(kept.model) ?? loaded ?? 'starter',
      // Taught rows are few, and trained from their own page.
      dataset: knows(words.dataset) ?? knows(kept.dataset) ?? (form.sets.find((one) => one.id !== 'taught') ?? form.sets[0])?.id ?? '',
      eval_dataset: knows(kept.eval_dataset) ?? '',
      adapter: words.adapter ?? '',
      values: Object.fromEntries(Object.entries(kept.values ?? {}).filter(([name]) => this.options.has(name)))
    }
    if (kept.preset === undefined) this.suit()
    await this.propose()
  }

  /** Take the preset that suits the model, where it is one of those that depend on it. */
  suit = (): void => {
    const { model, preset } = this.choice
    if (model === STARTER && preset === '') this.choice.preset = STARTER
    if (model !== STARTER && preset === STARTER) this.choice.preset = ''
  }

  /** What a setting is without a value of its own: the preset's, or the default. */
  given = (name: string): Value => {
    const preset = this.form?.presets[this.choice.preset]
    return preset && name in preset ? preset[name]! : (this.options.get(name)?.default ?? null)
  }

  value = (name: string): Value => (name in this.choice.values ? this.choice.values[name]! : this.given(name))

  set = (name: string, value: Value | undefined): void => {
    const { [name]: _old, ...rest } = this.choice.values
    this.choice.values = value === undefined || same(value, this.given(name)) ? rest : { ...rest, [name]: value }
  }

  /** Take over a change that the planner proposes; a model in it is chosen above. */
  apply = (change: Record<string, string | null>): void => {
    for (const [name, value] of Object.entries(change)) {
      if (name === 'model_name_or_path') this.choice.model = value ?? this.choice.model
      else this.set(name, value === null ? undefined : value)
    }
  }

  /** Propose a name that is free, as long as the user has not written one. */
  propose = async (): Promise<void> => {
    if (this.choice.name && this.choice.name !== this.proposed) return
    const set = this.form?.sets.find((one) => one.id === this.choice.dataset)
    const wanted = (set?.name ?? 'run').replace(/\.\w+$/, '')
    try {
      const { name } = await get<{ name: string }>(`training/name?wanted=${encodeURIComponent(wanted)}`)
      this.proposed = name
      this.choice.name = name
    } catch (problem) {
      toasts.fail(problem)
    }
  }

  /** Plan anew, a moment after the last change. */
  planSoon = (): void => {
    clearTimeout(this.timer)
    if (!this.form || !this.choice.dataset) return
    const { name: _name, adapter: _adapter, ...kept } = this.choice
    localStorage.setItem(KEPT, JSON.stringify(kept))
    this.isPlanning = true
    this.timer = setTimeout(this.planNow, WAIT_MS)
  }

  planNow = async (): Promise<void> => {
    const number = ++this.asked
    try {
      const answer = await post<Plan & Refusal>('training/plan', this.choice)
      if (number !== this.asked || answer.is_overtaken) return
      this.refusal = answer.refusal ?? ''
      this.plan = answer.refusal ? null : answer
    } catch (problem) {
      if (number !== this.asked) return
      this.refusal = problem instanceof Error ? problem.message : String(problem)
      this.plan = null
    }
    this.isPlanning = false
  }

  /** Begin, or wait in the queue; returns the id of the run. */
  start = async (): Promise<string> => {
    const entry = await post<{ run: string }>('training/queue', this.choice)
    this.proposed = this.choice.name
    await this.propose()
    return entry.run
  }

  private kept(): Partial<Choice> {
    try {
      return JSON.parse(localStorage.getItem(KEPT) ?? '{}') as Partial<Choice>
    } catch {
      return {}
    }
  }
}

function same(one: Value, other: Value): boolean {
  if (one === other) return true
  if (one === null || other === null || one === '' || other === '') return false
  return String(one) === String(other) || (!Number.isNaN(Number(one)) && Number(one) === Number(other))
}

export const training = new Training()
