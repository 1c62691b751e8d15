// @vitest-environment jsdom
import { expect, test } from 'vitest'
import { pieces } from '../src/parts/markdown'

test('a piece that is complete stays the same while the text grows', () => {
  const before = pieces('# Title\n\nA line')
  const after = pieces('# Title\n\nA line that goes on\n\n- a\n', before)
  expect(after[0]).toBe(before[0])
  expect(after.map((piece) => piece.html.trim())).toEqual([
    '<h1>Title</h1>',
    '<p>A line that goes on</p>',
    '<ul>\n<li>a</li>\n</ul>'
  ])
})

test('an address that comes later is that of a link before it', () => {
  const before = pieces('See [this][1].\n\n')
  const after = pieces('See [this][1].\n\n[1]: https://example.com\n', before)
  expect(before[0]!.html).not.toContain('href')
  expect(after[0]!.html).toContain('href="https://example.com"')
})

test('no piece can do anything', () => {
  const html = pieces('<script>x</script>\n\n[a](javascript:x)\n\n<img src=x onerror=x>')
    .map((piece) => piece.html)
    .join('')
  expect(html).not.toMatch(/<script|<img|javascript:/)
})
