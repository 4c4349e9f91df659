/** What a command prints: rows for people or JSON for programs, and a bar for what takes long. */
import { styleText } from 'node:util'
import stringWidth from 'string-width'

export type Cell = string | number | boolean | null
export type Row = Readonly<Record<string, Cell>>

/** A table of a page, with its heading; `none` is said when it is empty. */
export interface Section {
  title: string
  rows: readonly Row[]
  none: string
}

/** A stream to print to: bars are drawn on a terminal, colours used where it has them. */
export interface Sink {
  write(text: string): unknown
  isTTY?: boolean
  /** Also false where NO_COLOR is set, or the terminal knows none. */
  hasColors?: () => boolean
}

export interface Output {
  /** From now on values are printed as JSON, one a line, and lines for people are left out. */
  json(): void
  /** One value: `text` makes the lines for people of it. */
  value(value: unknown, text: () => string): void
  /** A table with the columns of its first row; as JSON an array of the rows. `none` is said when it is empty. */
  rows(rows: readonly Row[], none: string): void
  /** Several tables; as JSON `value` alone. */
  page(value: unknown, sections: readonly Section[]): void
  /** A line for people only, on standard error: what happens, hints. */
  say(text: string): void
  /** Progress on standard error, where that is a terminal; else a line now and then. */
  progress(what: string): Progress
}

export interface Progress extends Disposable {
  /** `total` null: not known. `note` is said behind it. */
  at(done: number, total: number | null, note?: string): void
}

const barWidth = 30
/** Without a terminal a line so often is enough for a log. */
const lineEveryMs = 10_000
const drawEveryMs = 100

/** `out` takes results, `err` what is said beside them. */
export function createOutput(out: Sink, err: Sink, now: () => number = Date.now): Output {
  let isJson = false
  const colours = out.isTTY === true && out.hasColors?.() === true
  // Beyond what JSON itself escapes, so that it may be looked at.
  const printJson = (value: unknown) => out.write(`${visible(JSON.stringify(value))}\n`)
  const printRows = (rows: readonly Row[], none: string) =>
    out.write(rows.length === 0 ? `${none}\n` : table(rows, colours))
  return {
    json() {
      isJson = true
    },
    value(value, text) {
      if (isJson) printJson(value)
      else out.write(`${visible(text(), '\n')}\n`)
    },
    rows(rows, none) {
      if (isJson) printJson(rows)
      else printRows(rows, none)
    },
    page(value, sections) {
      if (isJson) return void printJson(value)
      for (const [index, { title, rows, none }] of sections.entries()) {
        out.write(`${index === 0 ? '' : '\n'}${styled('underline', title, colours)}\n`)
        printRows(rows, none)
      }
    },
    say(text) {
      err.write(`${visible(text, '\n')}\n`)
    },
    progress: (what) => createProgress(what, err, now),
  }
}

/** Foreign text with what would move the cursor, change colours or turn the line around made visible. */
export function visible(text: string, kept = ''): string {
  return text.replace(
    /[\p{Cc}\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/gu,
    (character) =>
      kept.includes(character)
        ? character
        : `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

function styled(style: 'bold' | 'underline', text: string, colours: boolean): string {
  return colours ? styleText(style, text, { validateStream: false }) : text
}

function table(rows: readonly Row[], colours: boolean): string {
  const names = Object.keys(rows[0] ?? {})
  const cells = rows.map((row) => names.map((name) => shown(row[name] ?? null)))
  const widths = names.map((name, column) =>
    Math.max(stringWidth(name), ...cells.map((row) => stringWidth(row[column] ?? ''))),
  )
  const numeric = names.map((name) => rows.every((row) => typeof row[name] === 'number'))
  const lineOf = (texts: readonly string[]) =>
    texts
      .map((text, column) => {
        const gap = ' '.repeat((widths[column] ?? 0) - stringWidth(text))
        return numeric[column] ? gap + text : text + gap
      })
      .join('  ')
      .trimEnd()
  const head = lineOf(names)
  const lines = [styled('bold', head, colours), ...cells.map(lineOf)]
  return `${lines.join('\n')}\n`
}

function shown(cell: Cell): string {
  return cell === null ? '-' : visible(String(cell))
}

function createProgress(what: string, err: Sink, now: () => number): Progress {
  const isTTY = err.isTTY === true
  const every = isTTY ? drawEveryMs : lineEveryMs
  let drawnAt = isTTY ? 0 : now()
  let last = ''
  const draw = () => err.write(isTTY ? `\r\u001b[K${last}` : `${last}\n`)
  return {
    at(done, total, note = '') {
      const place = total === null ? `${done}` : `${bar(done, total)} ${done} of ${total}`
      last = `${what}: ${place}${note === '' ? '' : `; ${note}`}`
      if (now() - drawnAt < every) return
      drawnAt = now()
      draw()
    },
    [Symbol.dispose]() {
      if (last === '') return
      draw()
      if (isTTY) err.write('\n')
    },
  }
}

/** A time for people. */
export function spoken(seconds: number): string {
  if (seconds < 120) return `${seconds} s`
  if (seconds < 7_200) return `${Math.round(seconds / 60)} min`
  return seconds < 172_800
    ? `${Math.round(seconds / 3_600)} h`
    : `${Math.round(seconds / 86_400)} d`
}

function bar(done: number, total: number): string {
  const full = total === 0 ? barWidth : Math.min(barWidth, Math.floor((done / total) * barWidth))
  return `${'█'.repeat(full)}${'░'.repeat(barWidth - full)}`
}
