/** A terminal as a screen of lines: drawn in place, resized, and given back as it was. */
import type { WriteStream } from 'node:tty'
import ansi from 'ansi-escapes'
import { render } from './view.ts'
import type { Board } from './view-board.ts'

export interface Screen extends Disposable {
  readonly columns: number
  readonly rows: number
  readonly colour: boolean
  /** Shows these lines from the top; writes only what has changed. */
  draw(lines: readonly string[]): void
}

const drawEveryMs = 250
/** A terminal may have been written to by others: a key typed, a message of the system. */
const redrawEvery = 20
const suspend = 'SIGTSTP'
const resume = 'SIGCONT'

/** Whether there is a terminal that can be taken; else plain lines are all that can be had. */
export function isScreen(
  output: { isTTY?: boolean },
  wishes: { plain: boolean; terminal: string | undefined },
): boolean {
  return output.isTTY === true && !wishes.plain && wishes.terminal !== 'dumb'
}

/** Shows the board on this terminal until it is disposed. */
export function showBoard(board: Board, output: WriteStream): Disposable {
  const screen = openScreen(output)
  const draw = () => screen.draw(render(board.state(), screen))
  draw()
  const timer = setInterval(draw, drawEveryMs)
  output.on('resize', draw)
  return {
    [Symbol.dispose]() {
      clearInterval(timer)
      output.off('resize', draw)
      screen[Symbol.dispose]()
    },
  }
}

/**
 * Takes the terminal: the screen that was there comes back with the disposal, at a crash, at an exit
 * and while this process is suspended (Ctrl-Z). Nothing can give it back after a SIGKILL.
 */
export function openScreen(output: WriteStream): Screen {
  let shown: readonly string[] = []
  let draws = 0
  let taken = false

  const write = (text: string) => {
    if (output.writable) output.write(text)
  }
  const take = () => {
    if (taken) return
    taken = true
    shown = []
    write(ansi.enterAlternativeScreen + ansi.cursorHide + ansi.eraseScreen)
  }
  const giveBack = () => {
    if (!taken) return
    taken = false
    write(ansi.cursorShow + ansi.exitAlternativeScreen)
  }
  const forget = () => {
    shown = []
    if (taken) write(ansi.eraseScreen)
  }
  const onSuspend = () => {
    giveBack()
    process.kill(process.pid, 'SIGSTOP')
  }

  take()
  output.on('resize', forget)
  process.on('exit', giveBack)
  // Before Node prints the error: what is printed on the other screen is lost with it.
  process.on('uncaughtExceptionMonitor', giveBack)
  process.on(suspend, onSuspend)
  process.on(resume, take)

  return {
    get columns() {
      return output.columns || 80
    },
    get rows() {
      return output.rows || 24
    },
    colour: output.hasColors(),
    draw(lines) {
      // A terminal that is slower than we are gets fewer pictures.
      if (!taken || output.writableNeedDrain) return
      const all = draws++ % redrawEvery === 0 || shown.length !== lines.length
      const changed = lines
        .map((line, row) => (all || line !== shown[row] ? place(line, row) : ''))
        .join('')
      shown = [...lines]
      if (changed !== '') write(ansi.beginSynchronizedOutput + changed + ansi.endSynchronizedOutput)
    },
    [Symbol.dispose]() {
      giveBack()
      output.off('resize', forget)
      process.off('exit', giveBack)
      process.off('uncaughtExceptionMonitor', giveBack)
      process.off(suspend, onSuspend)
      process.off(resume, take)
    },
  }
}

function place(line: string, row: number): string {
  return ansi.cursorTo(0, row) + ansi.eraseEndLine + line
}
