/** Pieces of a line on a terminal: styled text, widths, numbers in few columns, bars. Pure. */
import { stripVTControlCharacters, styleText } from 'node:util'
import stringWidth from 'string-width'
import { grouped } from './plain.ts'

export type Style = 'plain' | 'title' | 'dim' | 'accent' | 'good' | 'warn' | 'bad'

export interface Span {
  readonly text: string
  readonly style: Style
}

export type Line = readonly Span[]

const formats = {
  title: ['bold'],
  dim: ['dim'],
  accent: ['cyan'],
  good: ['green'],
  warn: ['yellow'],
  bad: ['red', 'bold'],
} as const

const graphemes = new Intl.Segmenter('en', { granularity: 'grapheme' })

/** Text in a style, without anything that would move the cursor. */
export function span(text: string, style: Style = 'plain'): Span {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not get through.
  const harmless = stripVTControlCharacters(text).replace(/[\u0000-\u001f\u007f-\u009f]+/g, ' ')
  return { text: harmless, style }
}

/** The columns that it takes. */
export function widthOf(line: Line): number {
  return line.reduce((sum, { text }) => sum + stringWidth(text), 0)
}

/** The line, cut to this many columns; an ellipsis tells that something is missing. */
export function cut(line: Line, columns: number): Line {
  if (columns <= 0) return []
  if (widthOf(line) <= columns) return line
  const kept: Span[] = []
  let room = columns - 1
  for (const { text, style } of line) {
    let part = ''
    for (const { segment } of graphemes.segment(text)) {
      const width = stringWidth(segment)
      if (width > room) return [...kept, { text: `${part}…`, style }]
      part += segment
      room -= width
    }
    kept.push({ text: part, style })
  }
  return kept
}

/** The line in exactly this many columns: cut, or filled up at its end, its start or both. */
export function padded(
  line: Line,
  columns: number,
  side: 'left' | 'right' | 'centre' = 'left',
  fill = ' ',
): Line {
  const short = cut(line, columns)
  const missing = Math.max(0, columns - widthOf(short))
  const before = side === 'left' ? 0 : side === 'right' ? missing : Math.floor(missing / 2)
  const filler = (count: number) => (count > 0 ? [span(fill.repeat(count), 'dim')] : [])
  return [...filler(before), ...short, ...filler(missing - before)]
}

/** The left part and, where there is room, the right one at the line's end. */
export function ends(left: Line, right: Line, columns: number): Line {
  const gap = columns - widthOf(left) - widthOf(right)
  return gap < 1 ? cut(left, columns) : [...left, span(' '.repeat(gap)), ...right]
}

/** As the terminal takes it: with escape sequences, or without any. Blanks at the end are left out. */
export function toText(line: Line, colour: boolean): string {
  const text = line.map(({ text }) => text).join('')
  if (!colour) return text.trimEnd()
  const blank = text.length - text.trimEnd().length
  const shown = blank === 0 ? line : cutBlank(line, text.length - blank)
  return shown.map(({ text, style }) => paint(text, style)).join('')
}

function cutBlank(line: Line, length: number): Line {
  const kept: Span[] = []
  let left = length
  for (const { text, style } of line) {
    if (left <= 0) break
    kept.push({ text: text.slice(0, left), style })
    left -= text.length
  }
  return kept
}

function paint(text: string, style: Style): string {
  if (style === 'plain' || text.trim() === '') return text
  // Whether colour is wanted is decided by whoever asks, not by what this process's output is.
  return styleText([...formats[style]], text, { validateStream: false })
}

const units = [
  [1e15, 'P'],
  [1e12, 'T'],
  [1e9, 'G'],
  [1e6, 'M'],
  [1e4, 'k'],
] as const

/** A count in at most six columns, such as 9,999 or 12.3k; `–` for what is not known. */
export function short(value: number | null): string {
  if (value === null || !Number.isFinite(value)) return '–'
  const count = Math.max(0, value)
  for (const [least, unit] of units) {
    if (Math.round(count) < least) continue
    const scaled = count / (unit === 'k' ? 1e3 : least)
    if (scaled >= 1e4) return '>9999P'
    return `${scaled < 100 ? scaled.toFixed(1) : Math.floor(scaled)}${unit}`
  }
  return grouped(count)
}

/** A count in full while it has no more than twelve digits. */
export function long(value: number | null): string {
  return value === null || !Number.isFinite(value) || value >= 1e12 ? short(value) : grouped(value)
}

/** A number a second, of `things`: below ten with one decimal. */
export function rate(value: number | null, things = ''): string {
  if (value === null || !Number.isFinite(value)) return `–${things}/s`
  const tenths = Math.round(value * 10) / 10
  return `${tenths > 0 && tenths < 10 ? tenths.toFixed(1) : short(value)}${things}/s`
}

/** Seconds in words: 3.2 s, 42 s, 2 min 14 s, 3 h 12 min, 4 d 3 h. */
export function duration(seconds: number): string {
  if (seconds < 9.95) return `${Math.max(0, seconds).toFixed(1)} s`
  const whole = Math.round(seconds)
  if (whole < 60) return `${whole} s`
  if (whole < 3_600) return `${Math.floor(whole / 60)} min ${whole % 60} s`
  const minutes = Math.round(whole / 60)
  if (minutes < 1_440) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`
  const hours = Math.round(minutes / 60)
  return hours < 24_000 ? `${Math.floor(hours / 24)} d ${hours % 24} h` : 'years'
}

const levels = ' ▁▂▃▄▅▆▇█'

/** The values as columns, newest last, the highest as high as `height` lines; one string a line. */
export function sparkline(values: readonly number[], columns: number, height = 1): string[] {
  const shown = columns > 0 ? values.slice(-columns) : []
  const most = Math.max(1, ...shown)
  const steps = shown.map((value) => {
    if (!(value > 0)) return 0
    return Math.max(1, Math.round((value / most) * height * 8))
  })
  const lines: string[] = []
  for (let line = height - 1; line >= 0; line--) {
    // A quiet second is a low line, not a hole.
    const glyphs = steps.map(
      (step) => levels[Math.min(8, Math.max(line === 0 ? 1 : 0, step - line * 8))],
    )
    lines.push(glyphs.join('').padStart(columns))
  }
  return lines
}

/** A bar of this many columns, filled by `share` (0 to 1), and its empty rest. */
export function bar(share: number, columns: number): { full: string; empty: string } {
  const filled = Math.min(columns, Math.max(0, Math.floor((share || 0) * columns)))
  return { full: '█'.repeat(filled), empty: '░'.repeat(Math.max(0, columns - filled)) }
}
