import { describe, expect, it } from 'vitest'
import { binned, roundWidth, rowsOver } from '../src/pages/data/lengths'
import { fieldsOf, rowOf } from '../src/pages/data/rowForm'
import type { JsonObject } from '../src/pages/data/sets'
import { ends } from '../src/pages/data/tokens'
import { nameOfPasted } from '../src/pages/data/upload'
import { olderRows } from '../src/pages/teach/taught'

describe('lengths', () => {
  it('puts every row into a bin, the longest too', () => {
    const bins = binned([[1, 3], [100, 2], [999, 1]], 1000, 60)
    expect(bins.reduce((sum, bin) => sum + bin.rows, 0)).toBe(6)
    expect(bins.length).toBeLessThanOrEqual(60)
    expect(bins.at(-1)?.rows).toBe(1)
  })
  it('has round widths and a bin where there is nothing', () => {
    expect([roundWidth(1), roundWidth(3), roundWidth(17), roundWidth(200.5)]).toEqual([1, 5, 20, 500])
    expect(binned([], 0, 60)).toHaveLength(1)
  })
  it('counts what is longer', () => {
    expect(rowsOver([[10, 1], [11, 2], [12, 3]], 11)).toBe(3)
  })
})

describe('the form of a row', () => {
  it('keeps what no field shows, and messages keep their other keys', () => {
    const messages: JsonObject[] = [
      { role: 'user', content: 'Hi', id: 1 },
      { role: 'assistant', content: 'Hello', weight: 0 }
    ]
    const row: JsonObject = { messages, score: 0.5, system: null }
    const fields = fieldsOf(row, null)
    const list = fields.find((field) => field.kind === 'messages')
    if (list?.kind === 'messages') list.messages[1]!.content = 'Hello!'
    expect(rowOf(row, fields)).toEqual({
      ...row,
      messages: [messages[0], { role: 'assistant', content: 'Hello!', weight: 0 }]
    })
    expect(messages[1]?.content).toBe('Hello')
  })
  it('offers the fields that the format needs', () => {
    const columns = { formatting: 'alpaca', columns: { prompt: 'ask', response: 'reply' } }
    const fields = fieldsOf({ ask: 'Who?' }, columns as never)
    expect(fields.map((field) => field.name)).toEqual(['ask', 'reply'])
  })
})

describe('tokens', () => {
  it('shows both ends and says how many lie between them', () => {
    const segment = (text: string, count: number) => ({
      learned: false,
      control: false,
      cut: false,
      skipped: 0,
      texts: Array.from({ length: count }, () => text)
    })
    const shown = ends([segment('a', 50), segment('b', 50)], 60, 10)
    expect(shown.first.map((one) => one.texts.length)).toEqual([50, 10])
    expect(shown.last.map((one) => one.texts.length)).toEqual([10])
    expect(shown.between).toBe(30)
    expect(ends([segment('a', 50)], 60, 10).between).toBe(0)
  })
})

describe('what is pasted', () => {
  it('is named by how it begins', () => {
    expect(nameOfPasted('\n{"a": 1}')).toBe('pasted.jsonl')
    expect(nameOfPasted('[{}]')).toBe('pasted.json')
    expect(nameOfPasted('Who?\tEmber')).toBe('pasted.txt')
    expect(nameOfPasted('instruction,output\na,b')).toBe('pasted.csv')
  })
})

describe('older rows', () => {
  it('are a share of all', () => {
    expect([olderRows(10, 0), olderRows(10, 0.5), olderRows(10, 0.9)]).toEqual([0, 20, 90])
  })
})
