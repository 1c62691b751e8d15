/** Formulas as MathML, which browsers set by themselves: no fonts and no styles are needed. */
import katex from 'katex'

export function typeset(formula: string, isBlock: boolean): string {
  const markup = katex.renderToString(formula, {
    displayMode: isBlock,
    output: 'mathml',
    throwOnError: false,
    trust: false,
    maxSize: 20,
    maxExpand: 200
  })
  // The page's policy forbids styles inside of markup; what they do here is spacing at most.
  return markup.replace(/ style="[^"]*"/g, '')
}
