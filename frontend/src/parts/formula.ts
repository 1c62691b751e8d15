/** Formulas as MathML, which browsers set by themselves: no fonts and no styles are needed. */
import katex from 'katex'

export function typeset(formula: string, isBlock: boolean): string {
  return katex.renderToString(formula, {
    displayMode: isBlock,
    output: 'mathml',
    throwOnError: false,
    trust: false,
    maxSize: 20,
    maxExpand: 200
  })
}
