/** Colours of code, for the languages that people ask a model about. */
import highlighter from 'highlight.js/lib/core'
import bash from 'highlight.js/lib/languages/bash'
import c from 'highlight.js/lib/languages/c'
import cpp from 'highlight.js/lib/languages/cpp'
import css from 'highlight.js/lib/languages/css'
import diff from 'highlight.js/lib/languages/diff'
import go from 'highlight.js/lib/languages/go'
import java from 'highlight.js/lib/languages/java'
import javascript from 'highlight.js/lib/languages/javascript'
import json from 'highlight.js/lib/languages/json'
import python from 'highlight.js/lib/languages/python'
import rust from 'highlight.js/lib/languages/rust'
import sql from 'highlight.js/lib/languages/sql'
import typescript from 'highlight.js/lib/languages/typescript'
import xml from 'highlight.js/lib/languages/xml'
import yaml from 'highlight.js/lib/languages/yaml'

const LANGUAGES = { bash, c, cpp, css, diff, go, java, javascript, json, python, rust, sql, typescript, xml, yaml }
for (const [name, language] of Object.entries(LANGUAGES)) highlighter.registerLanguage(name, language)
// Longer code is shown without colours: they would hold up the page while it arrives.
const MOST_SIGNS = 20_000

/** Write code as HTML with the classes of its parts; an unknown language has none. */
export function highlight(code: string, language: string): string {
  const known = highlighter.getLanguage(language) && code.length <= MOST_SIGNS
  if (known) return highlighter.highlight(code, { language, ignoreIllegals: true }).value
  return code.replace(/[&<>]/g, (sign) => `&#${sign.charCodeAt(0)};`)
}
