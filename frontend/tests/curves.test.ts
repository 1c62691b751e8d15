import { describe, expect, it } from 'vitest'
import { cut, differences, grow, meanLine, NO_CURVES, secondsLeft, smoothed } from '../src/pages/runs/curves'

describe('smoothing', () => {
  it('leaves a level line level, to its ends', () => {
    for (const value of smoothed([2, 2, 2, 2], 0.9)) expect(value).toBeCloseTo(2, 12)
  })

  it('is nothing at weight 0', () => {
    expect(smoothed([3, 1, 4, 1, 5], 0)).toEqual([3, 1, 4, 1, 5])
  })

  it('does not lag: a peak stays where it is', () => {
    const values = Array.from({ length: 101 }, (_one, at) => (at === 50 ? 100 : 0))
    const line = smoothed(values, 0.8)
    expect(line.indexOf(Math.max(...line))).toBe(50)
    expect(line[49]).toBeCloseTo(line[51]!, 9)
  })
})

describe('growing', () => {
  it('adds steps and evaluations, and leaves gaps out', () => {
    const curves = structuredClone(NO_CURVES)
    grow(curves, {
      steps: { step: [1, 2], loss: [3, null], learning_rate: [0.1, 0.2] },
      held_out: { step: [2], eval_loss: [2.5] }
    })
    expect(curves.loss).toEqual({ x: [1], y: [3] })
    expect(curves.learning_rate.x).toEqual([1, 2])
    expect(curves.eval_loss).toEqual({ x: [2], y: [2.5] })
  })

  it('keeps the means of a thinned series beside it', () => {
    const curves = { ...structuredClone(NO_CURVES), loss: { x: [1], y: [9], mean_x: [1], mean_y: [5] } }
    grow(curves, { steps: { step: [2], loss: [4] }, held_out: { step: [], eval_loss: [] } })
    expect(meanLine(curves.loss)).toEqual({ x: [1, 2], y: [5, 4] })
  })
})

describe('comparing', () => {
  it('names only what differs, also what one of them lacks', () => {
    const rows = differences(
      [
        [
          { name: 'seed', value: 1 },
          { name: 'rank', value: 8 }
        ],
        [{ name: 'seed', value: 1 }]
      ],
      new Set()
    )
    expect(rows).toEqual([{ name: 'rank', values: ['8', '—'] }])
  })

  it('cuts a window, means too', () => {
    const series = { x: [1, 2, 3], y: [1, 2, 3], mean_x: [1.5, 3], mean_y: [1, 3] }
    expect(cut(series, 2, 3)).toEqual({ x: [2, 3], y: [2, 3], mean_x: [3], mean_y: [3] })
  })
})

describe('time left', () => {
  it('goes by the last steps', () => {
    expect(secondsLeft([9, ...Array.from({ length: 20 }, () => 0.5)], 10, 110)).toBe(50)
    expect(secondsLeft([], 0, 10)).toBeNull()
    expect(secondsLeft([1], 5, null)).toBeNull()
  })
})
