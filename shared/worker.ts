/** The life of a worker process: configuration, log, metrics, signals, and an end. */
import type { Registry } from 'prom-client'
import {
  type Config,
  ConfigError,
  type Environment,
  environment,
  type Options,
  readConfig,
  type WorkerOptions,
} from './config.ts'
import { createLog, type Logger } from './log.ts'
import { createHealth, createRegistry, type Health, serveMetrics } from './metrics.ts'

/** What a service gets to work with. */
export interface Worker<O extends Options> {
  config: Config<O>
  log: Logger
  /** Aborts at SIGTERM, SIGINT, and when the parent process that started us is gone. */
  signal: AbortSignal
  registry: Registry
  health: Health
}

/** Docker kills after 10 s; what is not finished by now stays pending and is found at the next start. */
const lastResortMs = 8_000

/**
 * Runs a service until it ends or a signal stops it, and sets the exit code: 0 when it was stopped,
 * 1 when it failed, 2 when its configuration can't be used (one message, nothing started).
 */
export async function runWorker<O extends WorkerOptions>(
  service: string,
  options: O,
  run: (worker: Worker<O>) => Promise<void>,
): Promise<void> {
  const config = configOrNull(service, options)
  if (config === null) {
    process.exitCode = 2
    return
  }
  const log = createLog(service, config.logLevel)
  for (const note of oldNames(options, environment)) log.info(note, 'an older name is in use')
  process.on('uncaughtExceptionMonitor', (err) => log.fatal({ err }, 'uncaught exception'))

  const signal = stopSignal(log)
  const registry = createRegistry(service)
  const health = createHealth()
  try {
    const { metricsPort: port, metricsHost: host } = config
    await using server = await serveMetrics({ registry, health, port, host })
    log.info({ port: server.port }, 'serving metrics')
    process.send?.({ listening: server.port })
    await run({ config, log, signal, registry, health })
    log.info(signal.aborted ? 'stopped' : 'finished')
  } catch (err) {
    log.fatal({ err }, 'failed')
    process.exitCode = 1
  }
  process.removeAllListeners('disconnect')
  if (process.connected) process.disconnect()
  exitAtLast(log)
}

/**
 * Runs the parts side by side until all have ended. When one fails, the signal of the others
 * aborts, all are waited for, and the first failure is thrown.
 */
export async function runTogether(
  signal: AbortSignal,
  parts: readonly ((signal: AbortSignal) => Promise<void>)[],
): Promise<void> {
  const failed = new AbortController()
  const either = AbortSignal.any([signal, failed.signal])
  const errors: unknown[] = []
  const settle = async (part: (signal: AbortSignal) => Promise<void>) => {
    try {
      await part(either)
    } catch (error) {
      errors.push(error)
      failed.abort()
    }
  }
  await Promise.all(parts.map(settle))
  if (errors.length > 0) throw errors[0]
}

function configOrNull<O extends Options>(service: string, options: O): Config<O> | null {
  try {
    return readConfig(options, environment)
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    process.stderr.write(`${service}: ${error.message}\n`)
    return null
  }
}

/** Which settings came by a name of the older workers; said once, so that it can be cleaned up. */
function oldNames(options: Options, env: Environment): { old: string; name: string }[] {
  return Object.values(options).flatMap((option) => {
    if (env[option.env]) return []
    const old = option.aliases?.find((alias) => env[alias])
    return old === undefined ? [] : [{ old, name: option.env }]
  })
}

function stopSignal(log: Logger): AbortSignal {
  const controller = new AbortController()
  const stop = (reason: string) => {
    if (controller.signal.aborted) return
    log.info({ reason }, 'stopping')
    controller.abort()
    exitAtLast(log)
  }
  process.on('SIGTERM', () => stop('SIGTERM'))
  process.on('SIGINT', () => stop('SIGINT'))
  process.on('disconnect', () => stop('parent gone'))
  // It may have gone while we were loading; without a parent's channel this is undefined.
  if (process.connected === false) stop('parent gone')
  return controller.signal
}

/** The only forced exit: when something still holds the process long after it should have ended. */
function exitAtLast(log: Logger): void {
  const exit = () => {
    log.warn('not finished in time: what was in hand stays pending')
    process.exit()
  }
  setTimeout(exit, lastResortMs).unref()
}
