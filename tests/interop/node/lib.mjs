// What the scripts share: their input, their output in JSON lines, and closing what they opened.
import { QueueEvents } from 'bullmq';

export const input = JSON.parse(process.argv[2] ?? '{}');

const url = new URL(process.env.REDIS_URL);
export const connection = { host: url.hostname, port: Number(url.port), maxRetriesPerRequest: null };

const opened = [];

export function closing(thing) {
  opened.push(thing);
  return thing;
}

export function emit(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

// From the stream's beginning: being ready means being connected, not yet reading, so that the end
// of a job that takes a millisecond can be missed by a listener that begins "now".
export async function queueEvents(queue) {
  const events = closing(new QueueEvents(queue, { connection, lastEventId: '0' }));
  events.on('error', (error) => emit({ event: 'error', message: String(error) }));
  await events.waitUntilReady();
  return events;
}

// A script that goes on until the test closes its standard input.
export function stdinClosed() {
  return new Promise((resolve) => {
    process.stdin.on('end', resolve);
    process.stdin.resume();
  });
}

export async function describe(job) {
  return {
    id: job.id,
    name: job.name,
    state: await job.getState(),
    returnvalue: job.returnvalue,
    failedReason: job.failedReason,
    stacktrace: job.stacktrace,
    attemptsMade: job.attemptsMade,
    attemptsStarted: job.attemptsStarted,
    progress: job.progress,
    processedBy: job.processedBy,
    timestamp: job.timestamp,
    processedOn: job.processedOn,
    finishedOn: job.finishedOn,
    delay: job.delay,
    priority: job.priority,
  };
}

export async function run(main) {
  try {
    await main();
  } finally {
    await Promise.all(opened.reverse().map((thing) => thing.close()));
  }
}
