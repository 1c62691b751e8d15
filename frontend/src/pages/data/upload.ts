/** Sends a file to the server as it is, and tells how much of it has arrived. */
import { language } from '../../language/language.svelte'
import { toasts } from '../../parts/toasts.svelte'
import { Refused } from '../../server/request'

export type Sending = { done: Promise<string>; stop: () => void }

/** Begin an upload; `done` gives the new data set's id. Raises Refused. */
export function upload(file: Blob, name: string, onProgress: (share: number) => void): Sending {
  const request = new XMLHttpRequest()
  const done = new Promise<string>((resolve, reject) => {
    request.open('POST', `studio/data/uploads?name=${encodeURIComponent(name)}`)
    request.setRequestHeader('content-type', 'application/octet-stream')
    request.setRequestHeader('accept-language', language.chosen)
    request.upload.onprogress = (event) => {
      if (event.lengthComputable) onProgress(event.loaded / event.total)
    }
    request.onerror = () => reject(new Refused(0, language.t('data.upload_cut')))
    request.onabort = () => reject(new Refused(0, language.t('data.upload_stopped')))
    request.onload = () => {
      const answer = parsed(request.responseText)
      if (request.status === 200 && answer.id) {
        if (answer.encoding) toasts.say(language.t('data.converted', { encoding: answer.encoding }))
        resolve(answer.id)
      }
      else reject(new Refused(request.status, answer.error?.message ?? `HTTP ${request.status}`))
    }
  })
  request.send(file)
  return { done, stop: () => request.abort() }
}

function parsed(text: string): { id?: string; encoding?: string; error?: { message: string } } {
  try {
    return JSON.parse(text)
  } catch {
    return {} // a proxy in between answered
  }
}

/** Choose a file's name for pasted text, by how it begins: JSON, a table with tabs or with commas. */
export function nameOfPasted(text: string): string {
  const first = text.trimStart()
  if (first.startsWith('{')) return 'pasted.jsonl'
  if (first.startsWith('[')) return 'pasted.json'
  const line = first.split('\n', 1)[0] ?? ''
  return line.includes('\t') || !line.includes(',') ? 'pasted.txt' : 'pasted.csv'
}
