/** The list of chats, as the menu shows it. */
import { toasts } from '../../parts/toasts.svelte'
import { get, patch, remove } from '../../server/request'

export type ChatTitle = { id: string; title: string; changed: number }

class Chats {
  all = $state<ChatTitle[]>([])
  hasMore = $state(false)
  private readonly page = 200

  load = async (): Promise<void> => {
    try {
      this.all = await get<ChatTitle[]>('chats')
      this.hasMore = this.all.length === this.page
    } catch (problem) {
      toasts.fail(problem)
    }
  }

  loadMore = async (): Promise<void> => {
    const last = this.all.at(-1)
    if (!last || !this.hasMore) return
    const more = await get<ChatTitle[]>(`chats?before=${last.changed}`)
    this.all = [...this.all, ...more]
    this.hasMore = more.length === this.page
  }

  rename = async (chat: ChatTitle, title: string): Promise<void> => {
    await patch(`chats/${chat.id}`, { title })
    await this.load()
  }

  remove = async (chat: ChatTitle): Promise<void> => {
    await remove(`chats/${chat.id}`)
    await this.load()
  }
}

export const chats = new Chats()
