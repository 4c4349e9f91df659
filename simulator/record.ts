/** Makes a recording: `node simulator/record.ts FILE [--seed S] [--accounts N] [--steps N]`. */
import { parseArgs } from 'node:util'
import { record } from './recording.ts'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seed: { type: 'string', default: 'sluice' },
    accounts: { type: 'string', default: '300' },
    steps: { type: 'string', default: '50000' },
  },
})
const [path] = positionals
const [accounts, steps] = [Number(values.accounts), Number(values.steps)]
if (path === undefined || !(accounts > 0 && steps > 0)) {
  console.error('node simulator/record.ts FILE [--seed S] [--accounts N] [--steps N]')
  process.exit(2)
}
const onProgress = (done: number) => console.error(`${done} of ${steps} steps`)
const { commits, frames } = await record(path, { seed: values.seed, accounts, steps, onProgress })
console.log(`${path}: ${frames} frames, ${commits} commits`)
