// Node's side: BullMQ's Worker, a call to the server for each job. {queue, concurrency, server, packages}
import { createRequire } from 'node:module';

const { queue, concurrency, server, packages } = JSON.parse(process.argv[2]);
const { Worker } = createRequire(packages)('bullmq');
const url = new URL(process.env.REDIS_URL);
const connection = { host: url.hostname, port: Number(url.port), maxRetriesPerRequest: null };

const worker = new Worker(
  queue,
  async (job) => {
    const { model, input } = job.data;
    const response = await fetch(`${server}/api/embed`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ model, input }),
    });
    if (!response.ok) throw new Error(await response.text());
    const { embeddings } = await response.json();
    return { model, embeddings, dimensions: embeddings[0].length };
  },
  { connection, concurrency },
);
worker.on('error', (error) => console.error(error));
