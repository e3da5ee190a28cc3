-- What Quarto's pages need and Quarto does not do by itself: links from names to the reference, anchors as JupyterLab
-- writes them, tables and formulas that scroll inside the page, and header cells for every table. And what Quarto does
-- slowly: folded code, and links to pages, which it finds only among those that it renders itself.

local symbols = {}
local listed = io.open(quarto.project.directory .. "/symbols.json")
if listed then
  symbols = pandoc.json.decode(listed:read("a"), false)
  listed:close()
end
local here = pandoc.path.make_relative(quarto.doc.input_file, quarto.project.directory):gsub("%.%w+$", ".html")
local up = ("../"):rep(select(2, here:gsub("/", "")))

-- `#On-your-own-data,-in-ten-lines` is JupyterLab's name of a heading; pandoc's has no capitals and no punctuation
local function anchor(name)
  name = name:gsub("%%(%x%x)", function(code) return string.char(tonumber(code, 16)) end)
  return (pandoc.text.lower(name):gsub("[!-,/:-@%[%]\\^`{-~]", ""):gsub("^[^%a\128-\255]+", ""))
end

local function page_of(target)
  local page, rest = target:match("^([^:#]+)%.ipynb(.*)$")
  if not page then page, rest = target:match("^([^:#]+)%.qmd(.*)$") end
  return page and page .. ".html" .. rest or target
end

local function link(el)
  local page, name = el.target:match("^([^#:]*)#(.+)$")
  if page and not name:match("^xfer_course%.") and not page:match("^/?api/") and not name:match("^%x%x%x%x%x%x%x%x$") then
    el.target = page .. "#" .. anchor(name)
  end
  el.target = page_of(el.target)
  return el, false
end

-- Quarto would run all of its filters over the words of each fold
local function folded(el)
  if el.attributes["code-fold"] ~= "true" or not el.classes:includes("cell-code") then
    return el, false
  end
  local words = pandoc.utils.blocks_to_inlines(pandoc.read(el.attributes["code-summary"], "markdown").blocks)
  el.attributes["code-fold"], el.attributes["code-summary"] = nil, nil
  local head = pandoc.List({ pandoc.RawInline("html", '<details class="code-fold">\n<summary>') })
  head:extend(words)
  head:insert(pandoc.RawInline("html", "</summary>"))
  return { pandoc.Plain(head), el, pandoc.RawBlock("html", "</details>") }, false
end

local function code(el)
  local target = symbols[(el.text:gsub("%(%)$", ""))]
  if target and target:gsub("#.*", "") ~= here then
    return pandoc.Link(el, up .. target), false
  end
end

-- wider than a phone: browsers do not break formulas
local function formula(el)
  local display = el.mathtype == "DisplayMath"
  if display or #el.text > 40 then
    return pandoc.Span(el, { class = display and "formula block" or "formula", tabindex = "0" }), false
  end
end

local function is_empty(cell)
  return not pandoc.utils.stringify(cell.contents):match("%S")
end

-- without header words the first column holds the headers, which the last step of the site marks (Quarto would lose
-- the mark); one word that is missing becomes one that is read out
local function headers(tbl)
  local row = tbl.head.rows[1]
  local words = 0
  for _, cell in ipairs(row and row.cells or {}) do
    if not is_empty(cell) then words = words + 1 end
  end
  if words == 0 then
    tbl.head.rows = {}
    return
  end
  for number, cell in ipairs(row.cells) do
    if is_empty(cell) then
      local word = number == 1 and "what" or "about it"
      cell.contents = { pandoc.Plain(pandoc.Span(word, { class = "visually-hidden" })) }
    end
  end
end

local function tables(el)
  headers(el)
  for _, column in ipairs(el.colspecs) do column[2] = nil end -- as wide as its words, not as its dashes
  return el:walk({ Code = code, Math = formula, Link = link, traverse = "topdown" }), false
end

local function scrolling(block)
  return pandoc.Div(block, { class = "table-responsive", tabindex = "0" })
end

local function raw(el)
  if el.format:match("html") then
    el.text = el.text:gsub('href="([^"]+)"', function(target) return 'href="' .. page_of(target) .. '"' end)
    return el.text:match("<table") and scrolling(el) or el, false
  end
end

return {
  { traverse = "topdown", Code = code, Math = formula, Link = link, Table = tables, RawBlock = raw,
    CodeBlock = folded,
    Header = function(el) return el:walk({ Link = link }), false end }, -- a name in a heading is no link
  { traverse = "topdown", Table = function(el) return scrolling(el), false end },
}
