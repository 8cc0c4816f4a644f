"""`/docs`: one page without external assets that reads the OpenAPI document and lets you try `/predict`."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>oodguard API</title>
<style>
:root{color-scheme:light dark;--line:color-mix(in srgb,currentColor 20%,transparent)}
body{font:16px/1.5 system-ui,sans-serif;max-width:54rem;margin:2rem auto;padding:0 1rem}
code,pre{font:14px/1.45 ui-monospace,monospace}pre{overflow:auto;border:1px solid var(--line);padding:.8rem;border-radius:6px}
section{border-top:1px solid var(--line);padding:.6rem 0}h2{font-size:1.1rem;margin:.4rem 0}
.verb{font-weight:700;margin-right:.5rem}table{border-collapse:collapse}td{padding:.15rem .8rem .15rem 0;vertical-align:top}
</style></head><body>
<h1>oodguard</h1><p id="about">Loading <a href="/openapi.json">openapi.json</a>.</p>
<form id="try"><label>Try it: <input type="file" name="image" accept="image/*" multiple required></label>
<label>accept <input name="accept" size="5" placeholder="0.95"></label> <button>POST /predict</button></form>
<pre id="answer" hidden></pre><div id="paths"></div>
<script>
const el=(tag,text,parent,cls)=>{const e=document.createElement(tag);if(text!=null)e.textContent=text;if(cls)e.className=cls;
  parent.append(e);return e};
fetch('/openapi.json').then(r=>r.json()).then(doc=>{
  about.textContent=doc.info.description+' Version '+doc.info.version+'. Machine-readable: ';
  el('a','openapi.json',about).href='/openapi.json';
  for(const [path,verbs] of Object.entries(doc.paths))for(const [verb,op] of Object.entries(verbs)){
    const s=el('section',null,paths),h=el('h2',null,s);el('span',verb.toUpperCase(),h,'verb');el('code',path,h);
    el('p',op.description||op.summary||'',s);const t=el('table',null,s);
    for(const p of op.parameters||[]){const r=el('tr',null,t);el('code',(p.in==='query'?'?':'')+p.name,el('td',null,r));el('td',p.description||'',r)}
    for(const b of Object.keys((op.requestBody||{}).content||{})){const r=el('tr',null,t);el('td','body',r);el('code',b,el('td',null,r))}
    for(const [code,resp] of Object.entries(op.responses||{})){const r=el('tr',null,t);el('td',code,r);el('td',resp.description,r)}
  }});
document.getElementById('try').addEventListener('submit',async e=>{e.preventDefault();const f=new FormData(e.target);
  const a=f.get('accept');f.delete('accept');answer.hidden=false;answer.textContent='...';
  const r=await fetch('/predict'+(a?'?accept='+encodeURIComponent(a):''),{method:'POST',body:f});
  answer.textContent=r.status+'\\n'+JSON.stringify(await r.json(),null,2)});
</script></body></html>
"""
