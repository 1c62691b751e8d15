/** Requests to the page's own server. Every address is relative, so a path prefix in front is kept. */
import { language } from '../language/language.svelte'

/** What the server refused, in its own words. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly code: string | null = null
  ) {
    super(message)
  }
}

type Listener = () => void
let whenLocked: Listener = () => {}
let whenAway: Listener = () => {}

/** Say what happens once the server asks for a key. */
export function onLocked(listener: Listener): void {
  whenLocked = listener
}

/** Say what happens once no server answers. */
export function onAway(listener: Listener): void {
  whenAway = listener
}

/** Ask a route below `studio/`; raises Refused, with status 0 where no server answers. */
export async function ask<T>(method: string, path: string, body?: unknown): Promise<T> {
  const hasBody = method !== 'GET'
  let answer: Response
  try {
    answer = await fetch(`studio/${path}`, {
      method,
      headers: {
        'accept-language': language.chosen,
        ...(hasBody ? { 'content-type': 'application/json' } : {})
      },
      body: hasBody ? JSON.stringify(body ?? {}) : undefined
    })
  } catch {
    whenAway()
    throw new Refused(0, language.t('shell.unreachable'))
  }
  return read<T>(answer)
}

/** Read an answer of the server; raises Refused for an error. */
export async function read<T>(answer: Response): Promise<T> {
  const text = await answer.text()
  if (answer.ok) return (text ? JSON.parse(text) : undefined) as T
  if (answer.status === 401) whenLocked()
  let message = answer.statusText
  let code: string | null = null
  try {
    const error = JSON.parse(text).error
    message = error.message
    code = error.code
  } catch {
    // A proxy in between answered; its own words are all there is.
  }
  throw new Refused(answer.status, message || `HTTP ${answer.status}`, code)
}

export const get = <T>(path: string) => ask<T>('GET', path)
export const post = <T>(path: string, body?: unknown) => ask<T>('POST', path, body)
export const patch = <T>(path: string, body: unknown) => ask<T>('PATCH', path, body)
export const remove = <T>(path: string) => ask<T>('DELETE', path)
