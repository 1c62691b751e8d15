/** Work that goes on at the server: a pull, a merge, an export. Each event tells the whole. */
import { follow } from './follow'

export type Work = {
  state: 'running' | 'stopping' | 'stopped' | 'failed' | 'done'
  name: string
  stage?: string
  done?: number
  total?: number
  /** Bytes a second, and seconds until it is done; null where nobody knows. */
  rate?: number
  left_s?: number | null
  message?: string
  fix?: string
}

export const goesOn = (work: Work | null | undefined): boolean =>
  work?.state === 'running' || work?.state === 'stopping'

/** Follow a piece of work; `onEnd` comes with its last event. Returns what ends it. */
export function followWork<T extends Work>(
  path: string,
  onEvent: (work: T) => void,
  onEnd: (work: T) => void = () => {}
): () => void {
  let newest: T | undefined
  return follow<T>(
    path,
    (work) => {
      newest = work
      onEvent(work)
    },
    () => newest && onEnd(newest)
  )
}
