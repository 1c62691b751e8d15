import { expect, test } from 'vitest'
import { answering, fineTuning, type Needs } from '../src/pages/models/fit'

const needs = (fits: Needs['fits']): Needs => ({
  memory_bytes: { chat_bf16: 18e9, chat_int8: 10e9, chat_int4: 6e9, lora: 19e9, full: 150e9 },
  fits
})
const nothing = { chat_bf16: false, chat_int8: false, chat_int4: false, lora: false, full: false }

test('the best way that fits is named, with its memory', () => {
  const all = needs({ chat_bf16: true, chat_int8: true, chat_int4: true, lora: true, full: true })
  expect(answering(all)).toEqual({ kind: 'good', way: 'chat_bf16', bytes: 18e9 })
  expect(fineTuning(all)).toEqual({ kind: 'good', way: 'full', bytes: 150e9 })
})

test('what rounds the weights is a warning', () => {
  const some = needs({ ...nothing, chat_int8: true, chat_int4: true, lora: true })
  expect(answering(some)).toEqual({ kind: 'warn', way: 'chat_int8', bytes: 10e9 })
  expect(fineTuning(some)).toEqual({ kind: 'good', way: 'lora', bytes: 19e9 })
})

test('too large says the least that it would take', () => {
  expect(answering(needs(nothing))).toEqual({ kind: 'bad', way: null, bytes: 6e9 })
  expect(fineTuning(needs(nothing))).toEqual({ kind: 'bad', way: null, bytes: 19e9 })
  // A model without an int4 form, and one of which nothing is known.
  const without = { memory_bytes: { chat_bf16: 18e9, chat_int8: 10e9 }, fits: { chat_bf16: false, chat_int8: false } }
  expect(answering(without).bytes).toBe(10e9)
  expect(answering({ memory_bytes: null, fits: null })).toEqual({ kind: 'bad', way: null, bytes: 0 })
})
