/** One comparison: what was asked, the columns, and their answers as they arrive. */
import { follow } from '../../server/follow'
import { get, post } from '../../server/request'
import { DEFAULT_CHOICE, type Choice, type Facts } from '../chat/types'

export type ColumnAnswer = { thought: string; text: string; facts: Facts; error?: string }
export type Kept = {
  id: string
  created: number
  prompt: string
  seed: number
  choices: Choice[]
  vote: number | null
  has_vote: boolean
}
type ColumnEvent = { column: number } & (
  | { kind: 'thought' | 'text'; text: string; tokens: number; s: number }
  | { kind: 'prompt'; prompt_tokens: number }
  | { kind: 'reading'; tokens: number; rate: number }
  | { kind: 'call' }
  | ({ kind: 'end' } & Facts)
  | { kind: 'error'; message: string }
)

export const MOST_COLUMNS = 4

export class Comparison {
  id = $state('')
  prompt = $state('')
  seed = $state(1)
  isGreedy = $state(false)
  voices = $state<string[]>(['base', 'base'])
  /** Who gave the answers that are shown; above, others may be chosen meanwhile. */
  asked = $state<string[]>([])
  answers = $state<ColumnAnswer[]>([])
  vote = $state<number | null>(null)
  hasVote = $state(false)
  isRunning = $state(false)
  private stopFollowing = () => {}

  async run(): Promise<void> {
    const choices = this.voices.map((voice) => ({
      ...DEFAULT_CHOICE,
      voice,
      temperature: this.isGreedy ? 0 : null
    }))
    this.isRunning = true // at once, so that pressing twice asks once
    try {
      this.id = (await post<{ id: string }>('compare', { prompt: this.prompt, choices, seed: this.seed })).id
    } catch (problem) {
      this.isRunning = false
      throw problem
    }
    this.vote = null
    this.hasVote = false
    this.asked = choices.map((choice) => choice.voice)
    this.answers = this.asked.map(empty)
    this.follow()
  }

  /** Show a comparison that the server keeps, or that is still running there. */
  async open(id: string): Promise<void> {
    this.close()
    const kept = await get<Kept & { answers: ColumnAnswer[] }>(`compare/${id}`)
    this.id = id
    this.prompt = kept.prompt
    this.seed = kept.seed
    this.asked = kept.choices.map((choice) => choice.voice)
    this.voices = [...this.asked]
    this.isGreedy = kept.choices.every((choice) => choice.temperature === 0)
    this.vote = kept.vote
    this.hasVote = kept.has_vote
    this.answers = kept.answers.length ? kept.answers : this.voices.map(empty)
    if (!kept.answers.length) this.follow()
  }

  async stop(): Promise<void> {
    await post(`compare/${this.id}/stop`)
  }

  async choose(column: number | null): Promise<void> {
    await post(`compare/${this.id}/vote`, { column })
    this.vote = column
    this.hasVote = true
  }

  close(): void {
    this.stopFollowing()
    this.isRunning = false
  }

  private follow(): void {
    this.isRunning = true
    this.stopFollowing = follow<ColumnEvent>(
      `compare/${this.id}/events`,
      (event) => this.take(event),
      () => (this.isRunning = false)
    )
  }

  private take(event: ColumnEvent): void {
    const answer = this.answers[event.column]
    if (!answer) return
    if (event.kind === 'thought' || event.kind === 'text') {
      answer[event.kind] += event.text
      const thought = event.kind === 'thought' ? { thought_s: event.s } : {}
      answer.facts = { ...answer.facts, ...thought, tokens: event.tokens, s: event.s }
    } else if (event.kind === 'prompt') {
      answer.facts.prompt_tokens = event.prompt_tokens
    } else if (event.kind === 'reading') {
      answer.facts.reading = event
    } else if (event.kind === 'end') {
      answer.facts = { ...answer.facts, ...event }
    } else if (event.kind === 'error') {
      answer.error = event.message
    }
  }
}

const empty = (): ColumnAnswer => ({ thought: '', text: '', facts: {} })
