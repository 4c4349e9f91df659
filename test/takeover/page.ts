/** The commands of the guide, by name: what the page says is what the test runs. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { text } from 'node:stream/consumers'

const fence = /^```(\S*) ?(\S*)\n([\s\S]*?)^```$/gm

/** Every block of shell commands; throws where one has no name, or one that another has. */
export function readCommands(
  page = readFileSync(new URL('../../docs/rollout.md', import.meta.url), 'utf8'),
): ReadonlyMap<string, string> {
  const blocks = new Map<string, string>()
  for (const [, language, label = '', text = ''] of page.matchAll(fence)) {
    if (language !== 'sh') continue
    const name = label.replace(/^rollout:/, '')
    if (name === label || blocks.has(name)) throw new Error(`a block without its name:\n${text}`)
    blocks.set(name, text)
  }
  return blocks
}

const commands = readCommands()
/** What of the page was run in this process. */
export const played = new Set<string>()

/**
 * Runs the commands under a name of the page as an operator would, up to the first that fails, and
 * gives what they printed. Throws when one fails.
 */
export async function runCommands(
  name: string,
  environment: Readonly<Record<string, string>>,
  before = '',
): Promise<string> {
  const script = commands.get(name)
  if (script === undefined) throw new Error(`the page has no commands under ${name}`)
  played.add(name)
  const child = spawn('bash', ['-euo', 'pipefail', '-c', before + script], {
    env: environment,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const [out, err, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close'),
  ])
  if (code !== 0) throw new Error(`${name} failed with ${code}:\n${script}\n${out}\n${err}`)
  return out
}
