import { svelte } from '@sveltejs/vite-plugin-svelte'
import { defineConfig } from 'vitest/config'

// The page is served by danlu itself, perhaps behind a path prefix: every address is relative.
export default defineConfig({
  plugins: [svelte()],
  base: './',
  build: {
    outDir: '../src/danlu/web/page',
    emptyOutDir: true,
    // An address inside the page may be no data: URL; the server allows only its own files.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: 'es2022'
  },
  server: { proxy: { '/studio': 'http://127.0.0.1:6006' } },
  resolve: process.env.VITEST ? { conditions: ['browser'] } : undefined,
  test: { environment: 'jsdom', include: ['tests/**/*.test.ts'] }
})
