/**
 * From what a model writes to HTML that cannot do anything: Markdown, code in colours, formulas.
 *
 * The text is hostile. Everything passes DOMPurify last, with a list of what may stay: no images and
 * no addresses that load by themselves, no styles, no forms, no ids that scripts could look for.
 */
import DOMPurify from 'dompurify'
import { Marked, type TokenizerAndRendererExtension } from 'marked'

type Highlighter = (code: string, language: string) => string
type Typesetter = (formula: string, isBlock: boolean) => string

const FORBIDDEN = ['style', 'form', 'input', 'button', 'textarea', 'select', 'option', 'svg', 'video', 'audio', 'source', 'picture', 'img', 'iframe', 'object', 'embed', 'link', 'meta', 'base', 'template', 'slot', 'dialog', 'details', 'summary', 'marquee']
let highlight: Highlighter | undefined
let typeset: Typesetter | undefined

/** Load what code and formulas need, where a text has some; both are large. */
export async function loadFor(text: string): Promise<boolean> {
  const before = [highlight, typeset]
  const wanted: Promise<void>[] = []
  if (!highlight && text.includes('```')) {
    wanted.push(import('./highlight').then((part) => void (highlight = part.highlight)))
  }
  if (!typeset && /\$|\\\(|\\\[/.test(text)) {
    wanted.push(import('./formula').then((part) => void (typeset = part.typeset)))
  }
  await Promise.all(wanted)
  return before[0] !== highlight || before[1] !== typeset
}

const escaped = (text: string): string =>
  text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`)

function formula(name: string, level: 'block' | 'inline', marks: RegExp, start: RegExp): TokenizerAndRendererExtension {
  return {
    name,
    level,
    start: (text) => text.search(start),
    tokenizer(text) {
      const found = marks.exec(text)
      return found ? { type: name, raw: found[0], text: (found[1] ?? found[2] ?? '').trim() } : undefined
    },
    renderer(token) {
      const isBlock = level === 'block'
      return typeset ? typeset(token.text, isBlock) : `<code>${escaped(token.text)}</code>`
    }
  }
}

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    code({ text, lang }) {
      const language = (lang ?? '').split(/\s/)[0] ?? ''
      const body = highlight ? highlight(text, language) : escaped(text)
      return `<pre data-language="${escaped(language)}"><code>${body}</code></pre>`
    },
    // What is HTML in the text is shown as the text that it is.
    html: ({ text }) => escaped(text),
    image: ({ href, text }) => `<a href="${escaped(href)}">${escaped(text || href)}</a>`
  },
  extensions: [
    formula('blockFormula', 'block', /^\$\$([\s\S]+?)\$\$|^\\\[([\s\S]+?)\\\]/, /\$\$|\\\[/),
    // A dollar that is a formula's stands at no blank: "5 $ and 6 $" is none.
    formula('inlineFormula', 'inline', /^\$(?!\s|\d+\b(?!.*[\\^_{]))((?:\\.|[^$\\\n])+?)(?<!\s)\$(?!\d)|^\\\(([\s\S]+?)\\\)/, /\$|\\\(/)
  ]
})

DOMPurify.addHook('afterSanitizeAttributes', (node) => {
  if (node.tagName === 'A') {
    if (!/^(https?:|mailto:)/i.test(node.getAttribute('href') ?? '')) node.removeAttribute('href')
    node.setAttribute('target', '_blank')
    node.setAttribute('rel', 'noopener noreferrer nofollow')
  }
})

/** A paragraph, a list, a block of code: as written, and as HTML that is safe to show. */
export type Piece = { raw: string; html: string; madeWith: string }

/**
 * Write Markdown as pieces of safe HTML.
 *
 * before: the pieces of the text when it was shorter. Those that are the same are kept, so that an
 * answer that grows by a word costs what its last piece costs, and not what the whole answer does.
 */
export function pieces(text: string, before: readonly Piece[] = []): Piece[] {
  const blocks = marked.lexer(text)
  // What may change a piece though its text is the same: a part that was loaded, a link's address.
  const madeWith = [!!highlight, !!typeset, JSON.stringify(blocks.links)].join()
  return blocks
    .filter((block) => block.type !== 'space')
    .map((block, place) => {
      const old = before[place]
      if (old?.raw === block.raw && old.madeWith === madeWith) return old
      return { raw: block.raw, html: harmless(marked.parser([block])), madeWith }
    })
}

function harmless(html: string): string {
  return DOMPurify.sanitize(html, {
    USE_PROFILES: { html: true, mathMl: true },
    FORBID_TAGS: FORBIDDEN,
    FORBID_ATTR: ['style', 'id', 'name', 'srcset', 'src', 'action', 'background', 'ping'],
    ALLOW_DATA_ATTR: true
  })
}
