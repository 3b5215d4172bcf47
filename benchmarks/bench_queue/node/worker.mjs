// Node's side: BullMQ's Worker with its defaults and the same no-op. {queue, concurrency}
import { Worker } from 'bullmq';

const { queue, concurrency } = JSON.parse(process.argv[2]);
const url = new URL(process.env.REDIS_URL);
const connection = { host: url.hostname, port: Number(url.port), maxRetriesPerRequest: null };

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const worker = new Worker(
  queue,
  async (job) => {
    // The machine's monotonic clock, as Python's time.monotonic_ns() reads it.
    const began = job.data.tell_begin ? Number(process.hrtime.bigint()) : null;
    if (job.data.wait_ms) await sleep(job.data.wait_ms);
    return began;
  },
  { connection, concurrency },
);
worker.on('error', (error) => console.error(error));
