/** What a terminal shows of the bytes that a program wrote to it, as far as our screen needs it. */

export interface Terminal {
  /** Takes more output. */
  write(text: string): void
  /** The lines of the screen that is shown, without blanks at their ends. */
  lines(): string[]
  /** Whether the program has swapped in a screen of its own. */
  isTaken(): boolean
  isCursorShown(): boolean
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: it is what sequences begin with.
const sequence = /\u001b\[([?]?)([\d;]*)([A-Za-z])/y

/** Understands positions, erasing, colours (which it leaves out), the cursor and the other screen. */
export function createTerminal(): Terminal {
  let rest = ''
  let taken = false
  let cursor = true
  let [row, column] = [0, 0]
  let cells: string[][] = []

  const control = (mark: string, numbers: readonly number[], final: string) => {
    const [first = 0, second = 0] = numbers
    if (mark === '?' && (final === 'h' || final === 'l')) {
      if (first === 25) cursor = final === 'h'
      if (first === 1049) taken = final === 'h'
      return
    }
    if (final === 'H') [row, column] = [Math.max(0, first - 1), Math.max(0, second - 1)]
    else if (final === 'G') column = Math.max(0, first - 1)
    else if (final === 'K') cells[row]?.splice(column)
    else if (final === 'J') cells = []
    else if (final !== 'm') throw new Error(`unknown sequence ${mark}${numbers.join(';')}${final}`)
  }
  const print = (glyph: string) => {
    if (glyph === '\r') column = 0
    else if (glyph === '\n') row += 1
    else {
      const line = cells[row] ?? []
      cells[row] = line
      while (line.length < column) line.push(' ')
      line[column++] = glyph
    }
  }

  return {
    write(text) {
      rest += text
      let at = 0
      while (at < rest.length) {
        sequence.lastIndex = at
        const found = sequence.exec(rest)
        if (found !== null) {
          const [whole, mark = '', numbers = '', final = ''] = found
          control(mark, numbers === '' ? [] : numbers.split(';').map(Number), final)
          at += whole.length
          continue
        }
        // A sequence may come in two parts.
        if (rest[at] === '\u001b' && rest.length - at < 16) break
        print(rest[at] ?? '')
        at += 1
      }
      rest = rest.slice(at)
    },
    lines: () => Array.from(cells, (line) => (line ?? []).join('').trimEnd()),
    isTaken: () => taken,
    isCursorShown: () => cursor,
  }
}
