// Run by the container's health check: exit code 0 when /health answers 200.
const port = process.env.PORT ?? '3000';

fetch(`http://127.0.0.1:${port}/health`)
  .then((response) => process.exit(response.ok ? 0 : 1))
  .catch(() => process.exit(1));
