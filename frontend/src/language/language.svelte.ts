/** The page's language: English or Chinese, as the browser prefers until the user chooses. */
import { en } from './en'
import { zh } from './zh'

export type Key = keyof typeof en
export type LanguageName = 'en' | 'zh'
type Fields = Record<string, string | number>

const CATALOGUES: Record<LanguageName, Record<Key, string>> = { en, zh }
const KEPT = 'danlu.language'

function preferred(): LanguageName {
  const kept = localStorage.getItem(KEPT)
  if (kept === 'en' || kept === 'zh') return kept
  return navigator.language.toLowerCase().startsWith('zh') ? 'zh' : 'en'
}

class Language {
  chosen = $state<LanguageName>(preferred())

  /** Write a sentence, with its fields filled in: t('runs.size', { size: '3 MB' }). */
  t = (key: Key, fields: Fields = {}): string =>
    CATALOGUES[this.chosen][key].replace(/\{(\w+)\}/g, (whole, name: string) =>
      name in fields ? String(fields[name]) : whole
    )

  choose(name: LanguageName): void {
    this.chosen = name
    localStorage.setItem(KEPT, name)
  }
}

export const language = new Language()
export const t = language.t
