/**
 * Asks the registry for known faults of our dependencies: exit code 1 when one is severe (high or
 * critical). A registry that can't be asked proves nothing, which is said loudly, and fails nothing.
 */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'

interface Report {
  /** npm's own trouble. */
  error?: unknown
  message?: string
  vulnerabilities?: Record<string, { severity: string; via: readonly unknown[] }>
}

const severe = ['high', 'critical']
const root = fileURLToPath(new URL('..', import.meta.url))

const report = await ask()
const found = Object.entries(report.vulnerabilities ?? {}).filter(([, { severity }]) =>
  severe.includes(severity),
)
if (report.vulnerabilities === undefined) {
  const reason = report.message ?? JSON.stringify(report.error)
  process.stderr.write(`
!! NOT AUDITED: the registry can not be asked for known faults of the dependencies.
!! ${reason}
!! Run \`npm run audit\` where it can.
`)
} else if (found.length === 0) {
  process.stdout.write('no dependency has a known fault of level high or above\n')
} else {
  for (const [name, { severity, via }] of found) {
    process.stderr.write(`${severity}: ${name}: ${via.map(titleOf).join('; ')}\n`)
  }
  process.exitCode = 1
}

/** npm exits with 1 both for faults and for its own trouble: only its report tells which. */
function ask(): Promise<Report> {
  return new Promise((resolve) => {
    execFile('npm', ['audit', '--json'], { cwd: root, maxBuffer: 64e6 }, (error, out) => {
      try {
        resolve(JSON.parse(out))
      } catch {
        resolve({ message: `npm gave no report: ${error?.message ?? out}` })
      }
    })
  })
}

function titleOf(cause: unknown): string {
  if (typeof cause === 'string') return `through ${cause}`
  return typeof cause === 'object' && cause !== null && 'title' in cause ? String(cause.title) : ''
}
