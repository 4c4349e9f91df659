/** Whether the worker of this container is alive, for the image's HEALTHCHECK. */
import { options as backfiller } from '../backfiller/options.ts'
import { options as indexer } from '../indexer/options.ts'
import { options as ingester } from '../ingester/options.ts'
import { environment, readConfig } from '../shared/config.ts'

/** The container's own settings decide which of these ports is served; the others are refused at once. */
const ports = [ingester, indexer, backfiller].map(
  ({ metricsPort }) => readConfig({ metricsPort }, environment).metricsPort,
)

const answers = await Promise.allSettled(
  [...new Set(ports)].map((port) =>
    fetch(`http://127.0.0.1:${port}/health`, { signal: AbortSignal.timeout(3_000) }),
  ),
)
const isAlive = answers.some((answer) => answer.status === 'fulfilled' && answer.value.ok)
process.exitCode = isAlive ? 0 : 1
