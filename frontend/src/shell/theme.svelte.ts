/** Light or dark: as the system says, until the user chooses. */
const KEPT = 'danlu.theme'
type ThemeName = 'light' | 'dark'

class Theme {
  private readonly system = matchMedia('(prefers-color-scheme: dark)')
  private kept = $state(localStorage.getItem(KEPT))
  private isDark = $state(this.system.matches)

  constructor() {
    this.system.addEventListener('change', (event) => {
      this.isDark = event.matches
      this.show()
    })
    this.show()
  }

  /** Before anything is drawn anew: what draws by itself reads the colours from the page. */
  private show(): void {
    document.documentElement.dataset.theme = this.chosen
  }

  get chosen(): ThemeName {
    if (this.kept === 'light' || this.kept === 'dark') return this.kept
    return this.isDark ? 'dark' : 'light'
  }

  toggle(): void {
    this.kept = this.chosen === 'dark' ? 'light' : 'dark'
    localStorage.setItem(KEPT, this.kept)
    this.show()
  }
}

export const theme = new Theme()
