/** Copies text; also where the page has no clipboard, since it did not come over https. */
import { t } from '../language/language.svelte'
import { toasts } from './toasts.svelte'

export async function copy(text: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text)
  } catch {
    const area = document.createElement('textarea')
    area.value = text
    document.body.append(area)
    area.select()
    document.execCommand('copy')
    area.remove()
  }
  toasts.say(t('shell.copied'))
}
