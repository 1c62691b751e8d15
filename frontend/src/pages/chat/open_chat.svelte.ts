/** The chat that is open: its turns, the branch that is shown, and the answer that arrives. */
import { toasts } from '../../parts/toasts.svelte'
import { follow } from '../../server/follow'
import { get, patch, post } from '../../server/request'
import { server } from '../../server/server.svelte'
import { chats } from './chats.svelte'
import { branchTo, endBelow, siblings } from './tree'
import { DEFAULT_CHOICE, type AnswerEvent, type Choice, type KeptChat, type Turn } from './types'

const CHOICE = 'danlu.choice'
const DRAFT = 'danlu.draft'
const DRAFT_WAIT_MS = 400

export class OpenChat {
  id = $state('')
  title = $state('')
  turns = $state<Turn[]>([])
  shown = $state<number | null>(null)
  draft = $state('')
  choice = $state<Choice>({ ...DEFAULT_CHOICE })
  isLoading = $state(true)
  /** The server is asked to begin an answer: what is pressed again meanwhile is not asked again. */
  private isAsking = $state(false)
  private stopFollowing: Record<number, () => void> = {}
  private asked = 0
  private draftTimer: ReturnType<typeof setTimeout> | undefined

  branch = $derived(branchTo(this.turns, this.shown))
  /** The answer that is being written on this branch. */
  running = $derived(this.branch.find((turn) => turn.state === 'running'))
  isBusy = $derived(this.isAsking || !!this.running)

  /** Open a chat of the server; without an id a new one, which the first question creates. */
  async open(id: string): Promise<void> {
    const mine = ++this.asked
    if (id && id === this.id) return
    this.close()
    this.isLoading = true
    try {
      const chat = id ? await get<KeptChat>(`chats/${id}`) : null
      if (mine !== this.asked) return // another one was opened meanwhile
      if (chat) this.take(chat)
      else this.begin()
    } catch (problem) {
      if (mine !== this.asked) return
      this.begin()
      throw problem
    } finally {
      if (mine === this.asked) this.isLoading = false
    }
  }

  /** Let go of the streams; the answers go on at the server. */
  close(): void {
    for (const stop of Object.values(this.stopFollowing)) stop()
    this.stopFollowing = {}
  }

  private begin(): void {
    const kept = JSON.parse(localStorage.getItem(CHOICE) ?? '{}') as Partial<Choice>
    this.id = this.title = ''
    this.turns = []
    this.shown = null
    // The same voice answers; what one chat was told does not reach into the next.
    this.choice = { ...DEFAULT_CHOICE, voice: kept.voice ?? 'base', strength: kept.strength ?? 1 }
    this.draft = localStorage.getItem(DRAFT) ?? ''
  }

  /** Take what was said in another window meanwhile; what is being typed here stays. */
  async refresh(): Promise<void> {
    if (!this.id || this.running || this.isLoading) return
    const chat = await get<KeptChat>(`chats/${this.id}`)
    if (chat.id === this.id && chat.turns.length > this.turns.length) {
      this.take({ ...chat, draft: this.draft })
    }
  }

  private take(chat: KeptChat): void {
    this.id = chat.id
    this.title = chat.title
    this.turns = chat.turns
    this.shown = chat.shown
    this.draft = chat.draft
    this.choice = { ...DEFAULT_CHOICE, ...chat.settings }
    for (const turn of chat.turns) if (turn.state === 'running') this.follow(turn.id)
  }

  /** Keep what is being typed, so that a reload does not lose it. */
  keepDraft(): void {
    clearTimeout(this.draftTimer)
    const { id, draft } = this
    this.draftTimer = setTimeout(() => {
      if (id) patch(`chats/${id}`, { draft }).catch(() => {})
      else localStorage.setItem(DRAFT, draft)
    }, DRAFT_WAIT_MS)
  }

  keepChoice(): void {
    localStorage.setItem(CHOICE, JSON.stringify(this.choice))
    if (this.id) patch(`chats/${this.id}`, { settings: this.choice }).catch(toasts.fail)
  }

  /** Do what begins an answer or a branch; nothing, where that is going on. */
  private async alone<T>(work: () => Promise<T>): Promise<T | undefined> {
    if (this.isAsking) return undefined
    this.isAsking = true
    try {
      return await work()
    } finally {
      this.isAsking = false
    }
  }

  /** Ask something behind `before`; returns the id of the chat, which may be new. */
  ask = (content: string, before: number | null = this.shown): Promise<string | undefined> =>
    this.alone(() => this.askNow(content, before))

  private async askNow(content: string, before: number | null): Promise<string> {
    this.choice.model ||= server.model.model
    if (!this.id) {
      const chat = await post<KeptChat>('chats', { settings: this.choice })
      this.id = chat.id
      localStorage.removeItem(DRAFT)
    }
    clearTimeout(this.draftTimer)
    const settings = $state.snapshot(this.choice)
    const made = await post<{ question: number; answer: number }>(`chats/${this.id}/ask`, {
      content,
      before,
      settings
    })
    this.add({ id: made.question, before, role: 'user', content })
    this.addAnswer(made.answer, made.question)
    await chats.load()
    this.title ||= chats.all.find((one) => one.id === this.id)?.title ?? ''
    return this.id
  }

  /** Answer a question once more, perhaps by another voice. */
  again = (question: number, voice?: string): Promise<void> => this.alone(() => this.againNow(question, voice))

  private async againNow(question: number, voice?: string): Promise<void> {
    const settings = { ...$state.snapshot(this.choice), ...(voice ? { voice } : {}) }
    const made = await post<{ answer: number }>(`chats/${this.id}/again`, { question, settings })
    this.addAnswer(made.answer, question)
  }

  /** Say what the tools have returned that an answer has called. */
  giveResults = (answer: Turn, results: string[]): Promise<void> =>
    this.alone(() => this.giveResultsNow(answer, results))

  private async giveResultsNow(answer: Turn, results: string[]): Promise<void> {
    const settings = $state.snapshot(this.choice)
    const made = await post<{ results: number[]; answer: number }>(`chats/${this.id}/results`, {
      answer: answer.id,
      results,
      settings
    })
    made.results.forEach((id, place) => {
      this.add({ id, before: made.results[place - 1] ?? answer.id, role: 'tool', content: results[place]! })
    })
    this.addAnswer(made.answer, made.results.at(-1)!)
  }

  /** Put a corrected answer beside the one that was given; returns its turn. */
  correct = (answer: Turn, content: string, reasoning: string): Promise<number | undefined> =>
    this.alone(() => this.correctNow(answer, content, reasoning))

  private async correctNow(answer: Turn, content: string, reasoning: string): Promise<number> {
    const made = await post<{ answer: number }>(`chats/${this.id}/correct`, {
      answer: answer.id,
      content,
      reasoning
    })
    this.add({ ...$state.snapshot(answer), id: made.answer, content, reasoning, state: 'done' })
    return made.answer
  }

  async stop(): Promise<void> {
    if (this.running) await post(`chats/answers/${this.running.id}/stop`)
  }

  siblings = (turn: Turn): Turn[] => siblings(this.turns, turn)

  /** Show another branch, down to where it was left. */
  show(turn: Turn): void {
    this.shown = endBelow(this.turns, turn).id
    patch(`chats/${this.id}`, { shown: this.shown }).catch(toasts.fail)
  }

  private addAnswer(id: number, before: number): void {
    this.add({ id, before, role: 'assistant', content: '', state: 'running' })
    this.follow(id)
  }

  private add(turn: Partial<Turn> & Pick<Turn, 'id' | 'before' | 'role' | 'content'>): void {
    this.turns.push({
      reasoning: '',
      tool_calls: [],
      state: 'done',
      facts: { voice: this.choice.voice },
      created: Date.now() / 1000,
      ...turn
    })
    this.shown = turn.id
  }

  /** Take an answer as it arrives: from its beginning, also where the page was loaded meanwhile. */
  private follow(id: number): void {
    const turn = this.turns.find((one) => one.id === id)!
    turn.content = turn.reasoning = ''
    turn.tool_calls = []
    this.stopFollowing[id] = follow<AnswerEvent>(
      `chats/answers/${id}/events`,
      (event) => take(turn, event),
      () => {
        delete this.stopFollowing[id]
        if (turn.state === 'running') void this.reread(id)
      }
    )
  }

  /** The log of an answer is gone once it has ended: what it came to is in the chat. */
  private async reread(id: number): Promise<void> {
    const chat = await get<KeptChat>(`chats/${this.id}`)
    const now = chat.turns.find((turn) => turn.id === id)
    const place = this.turns.findIndex((turn) => turn.id === id)
    if (now && place >= 0) this.turns[place] = now
  }
}

function take(turn: Turn, event: AnswerEvent): void {
  switch (event.kind) {
    case 'prompt':
      turn.facts.prompt_tokens = event.prompt_tokens
      break
    case 'reading':
      turn.facts.reading = event
      break
    case 'thought':
      turn.reasoning += event.text
      turn.facts = { ...turn.facts, tokens: event.tokens, s: event.s, thought_s: event.s }
      break
    case 'text':
      turn.content += event.text
      turn.facts = { ...turn.facts, tokens: event.tokens, s: event.s }
      break
    case 'call':
      turn.tool_calls.push(event.call)
      break
    case 'end': {
      const { kind: _kind, ...facts } = event
      turn.facts = { ...turn.facts, ...facts }
      break
    }
    case 'error':
      turn.facts.error = event.message
      break
    case 'state':
      turn.state = event.state
      turn.facts = event.facts
  }
}
