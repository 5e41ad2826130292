// The specification carries what there is to say; nothing is asked of any other host (validatorUrl).
window.ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  validatorUrl: null,
  tryItOutEnabled: false,
});
