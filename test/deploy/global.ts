/** Once per run: an engine, and the images that the tests start. */
import type { TestProject } from 'vitest/node'
import { dockerAt } from './docker.ts'
import { openEngine } from './engine.ts'
import { type Bases, baseImages, buildSluice, type Images, serverImages } from './images.ts'

/** What a test needs to start containers. */
export interface Dock {
  /** The engine's, as DOCKER_HOST. */
  host: string
  /** This machine, as containers see it: where a simulated network listens for them. */
  gateway: string
  bases: Bases
  /** Of this checkout. */
  sluice: string
  /** The servers, by the names that docker-compose.prod.yml reads. */
  images: Images
}

declare module 'vitest' {
  export interface ProvidedContext {
    dock: Dock
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const engine = await openEngine()
  const { host, from } = engine
  const docker = dockerAt(host)
  // The engine's own bridge does not always say where it is.
  const network = `sluice-test-${process.pid}`
  const stop = async () => {
    await docker('network', 'rm', network).catch(() => {})
    await engine[Symbol.asyncDispose]()
  }
  try {
    await docker('network', 'create', network)
    const bases = await baseImages(docker)
    const sluice = await buildSluice(docker, { bases, name: 'sluice' })
    const images = await serverImages(docker, bases)
    const gateway = await docker(
      ...['network', 'inspect', network, '--format', '{{(index .IPAM.Config 0).Gateway}}'],
    )
    console.log(`engine: ${from}; images of ${bases.debian}`)
    project.provide('dock', { host, gateway: gateway.trim(), bases, sluice, images })
    return stop
  } catch (error) {
    await stop()
    throw error
  }
}
