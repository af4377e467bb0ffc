/** Puts the page into its document. */

import { mount } from 'svelte';
import './app.css';
import App from './App.svelte';

mount(App, { target: document.body.querySelector('#app') ?? document.body });
