/** Which page is shown: the part of the address behind #, which no proxy ever sees. */
export const PAGES = ['chat', 'compare', 'data', 'train', 'runs', 'teach', 'merge', 'models'] as const
export type PageName = (typeof PAGES)[number]

class Route {
  page = $state<PageName>('chat')
  /** What stands behind the page's name: the id of a chat, of a run. */
  id = $state('')
  /** What is handed over from one page to another: ?dataset=… */
  words = $state<Record<string, string>>({})

  constructor() {
    addEventListener('hashchange', () => this.read())
    this.read()
  }

  /** Write an address: to('runs', 'abc', { compare: '1' }). */
  to(page: PageName, id = '', words: Record<string, string> = {}): string {
    const query = new URLSearchParams(words).toString()
    return `#/${page}${id ? `/${encodeURIComponent(id)}` : ''}${query ? `?${query}` : ''}`
  }

  go(page: PageName, id = '', words: Record<string, string> = {}): void {
    location.hash = this.to(page, id, words)
  }

  private read(): void {
    const [path = '', query = ''] = location.hash.replace(/^#\/?/, '').split('?')
    const [page = '', id = ''] = path.split('/')
    this.page = PAGES.find((name) => name === page) ?? 'chat'
    this.id = decoded(id)
    this.words = Object.fromEntries(new URLSearchParams(query))
  }
}

/** A link that was cut or mistyped leads nowhere, and breaks nothing. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

export const route = new Route()
