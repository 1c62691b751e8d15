/** Files on their way to the server; they arrive also while another page is shown. */
import { t } from '../../language/language.svelte'
import { toasts } from '../../parts/toasts.svelte'
import { Refused } from '../../server/request'
import { route } from '../../shell/route.svelte'
import { upload, type Sending } from './upload'

class Uploading {
  name = $state('')
  share = $state(0)
  /** How many files have arrived. */
  arrived = $state(0)
  isBusy = $state(false)
  private sending: Sending | null = null

  constructor() {
    // The browser asks first: with its page an upload would be gone.
    addEventListener('beforeunload', (event) => this.isBusy && event.preventDefault())
  }

  /**
   * Send files, one after the other; returns whether all have arrived.
   *
   * A single one is shown then, unless somebody looks elsewhere meanwhile.
   */
  send = async (files: { content: Blob; name: string }[]): Promise<boolean> => {
    if (this.isBusy) return false
    this.isBusy = true
    const before = this.arrived
    for (const { content, name } of files) {
      const id = await this.sendOne(content, name)
      if (!id) continue
      this.arrived += 1
      if (files.length === 1 && route.page === 'data' && !route.id) route.go('data', id)
      else toasts.say(t('data.uploaded', { name }))
    }
    this.isBusy = false
    return this.arrived === before + files.length
  }

  stop = (): void => this.sending?.stop()

  private async sendOne(content: Blob, name: string): Promise<string> {
    this.name = name
    this.share = 0
    this.sending = upload(content, name, (share) => (this.share = share))
    try {
      return await this.sending.done
    } catch (problem) {
      // With several files one has to know which it was.
      const what = problem instanceof Refused ? new Refused(problem.status, `${name}: ${problem.message}`) : problem
      toasts.fail(what)
      return ''
    }
  }
}

export const uploading = new Uploading()
