/** What the server keeps of a chat. */
export type Choice = {
  /** The loaded model that this was chosen for. */
  model: string
  voice: string
  strength: number
  system: string
  /** What an answer may call, in OpenAI's form. */
  tools: object[]
  enable_thinking: boolean | null
  thinking_budget: number | null
  temperature: number | null
  top_p: number | null
  top_k: number | null
  min_p: number
  repetition_penalty: number
  presence_penalty: number
  seed: number | null
  max_tokens: number | null
}

export const DEFAULT_CHOICE: Choice = {
  model: '',
  voice: 'base',
  strength: 1,
  system: '',
  tools: [],
  enable_thinking: null,
  thinking_budget: null,
  temperature: null,
  top_p: null,
  top_k: null,
  min_p: 0,
  repetition_penalty: 1,
  presence_penalty: 0,
  seed: null,
  max_tokens: null
}

/** Figures of an answer; seconds count from its first token, first_s until it. */
export type Facts = {
  voice?: string
  strength?: number
  tokens?: number
  s?: number
  first_s?: number
  thought_s?: number
  prompt_tokens?: number
  /** How much of the prompt is read, and at how many tokens a second, while it is. */
  reading?: { tokens: number; rate: number }
  cached_tokens?: number
  reason?: string
  error?: string
  corrected?: number
}

export type ToolCall = { function: { name: string; arguments: string } }

export type Turn = {
  id: number
  before: number | null
  role: 'user' | 'assistant' | 'tool'
  content: string
  reasoning: string
  tool_calls: ToolCall[]
  state: 'done' | 'running' | 'stopped' | 'failed'
  facts: Facts
  created: number
}

export type KeptChat = {
  id: string
  title: string
  draft: string
  shown: number | null
  settings: Choice
  turns: Turn[]
}

export type AnswerEvent =
  | { kind: 'prompt'; prompt_tokens: number }
  | { kind: 'reading'; tokens: number; rate: number }
  | { kind: 'thought' | 'text'; text: string; tokens: number; s: number }
  | { kind: 'call'; call: ToolCall; tokens: number; s: number }
  | ({ kind: 'end' } & Facts)
  | { kind: 'error'; message: string }
  | { kind: 'state'; state: Turn['state']; facts: Facts }
