/**
 * Follows the numbered events of something that goes on at the server.
 *
 * The browser comes back by itself after a lost connection and says which event it has seen last,
 * so none is missed and none comes twice. Returns what ends it.
 */
export function follow<T>(
  path: string,
  onEvent: (event: T) => void,
  onEnd: () => void = () => {}
): () => void {
  const source = new EventSource(`studio/${path}`)
  source.onmessage = (message) => onEvent(JSON.parse(message.data) as T)
  source.addEventListener('end', () => {
    source.close()
    onEnd()
  })
  source.onerror = () => {
    // CLOSED: the server refused, and the browser has given up.
    if (source.readyState === EventSource.CLOSED) onEnd()
  }
  return () => source.close()
}
