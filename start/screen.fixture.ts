/** A program with a screen, for the tests: `crash`, `resize` or `exit`. */
import { execFileSync } from 'node:child_process'
import { setTimeout as wait } from 'node:timers/promises'
import { createBoard } from './view-board.ts'
import { showBoard } from './view-screen.ts'

const board = createBoard({ title: 'a fixture' })
showBoard(board, process.stdout)
await wait(400)
switch (process.argv[2]) {
  case 'crash':
    setTimeout(() => {
      throw new Error('this is the end')
    })
    break
  case 'resize':
    execFileSync('stty', ['cols', '60', 'rows', '12'], { stdio: 'inherit' })
    board.footer('resized')
    await wait(600)
    process.exit(0)
    break
  default:
    process.exit(3)
}
